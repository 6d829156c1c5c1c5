// Owns what the page says and does about a run whose hosts are kept because it failed. Used by run-header.tsx.
import { useState } from 'preact/hooks';
import type { Run } from '../../domain/schemas/api';
import { apiPath } from '../../domain/names';
import { sendChange } from './api';
import { runAddress } from './failures';
import { Command } from './shell-parts';

const MORE_MINUTES = 60;

export function HoldNote({ run, onAsked }: { run: Run; onAsked: () => void }) {
  const [refusal, setRefusal] = useState('');
  if (run.heldUntil === null) return null;
  const path = `${apiPath.run(run.project, run.build, run.name)}/hold`;
  const send = async (change: { method: 'POST' | 'DELETE'; body?: object }) => {
    const trouble = await sendChange({ ...change, path });
    setRefusal(trouble === null ? '' : `Not changed: ${trouble.detail}`);
    onAsked();
  };
  return (
    <>
      <p class="held">
        What it left is kept on host {run.host} until{' '}
        <time dateTime={run.heldUntil}>{new Date(run.heldUntil).toLocaleString()}</time>.{' '}
        <button
          type="button"
          class="plain"
          onClick={() => void send({ method: 'POST', body: { minutes: MORE_MINUTES } })}
        >
          Keep it for an hour from now
        </button>{' '}
        <button type="button" class="plain" onClick={() => void send({ method: 'DELETE' })}>
          Give the host back
        </button>
        {refusal === '' ? null : (
          <span class="refusal" role="alert">
            {refusal}
          </span>
        )}
      </p>
      <p class="commands">
        <Command text={`slipway shell ${runAddress({ project: run.project, number: run.build }, run.name)}`} />
      </p>
    </>
  );
}
