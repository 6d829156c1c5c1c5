// Owns asking for a rerun: a button a choice, and what the API said.
// Used by the build page and the run page once the thing is finished.
import { useState } from 'preact/hooks';
import { requestChange } from './api';

interface RerunProps {
  /** Text of each button, and the runs it asks for. */
  choices: { text: string; runs: 'all' | 'failed' | string[] }[];
  /** Of the build. */
  selfUrl: string;
  onAsked: () => void;
}

export function RerunButtons({ choices, selfUrl, onAsked }: RerunProps) {
  const [refusal, setRefusal] = useState('');
  const send = async (runs: RerunProps['choices'][number]['runs']) => {
    const trouble = await requestChange(selfUrl, 'rerun', { runs });
    setRefusal(trouble === null ? '' : `Not run again: ${trouble.detail}`);
    onAsked();
  };
  return (
    <>
      {choices.map(({ text, runs }) => (
        <button key={text} type="button" class="plain" onClick={() => void send(runs)}>
          {text}
        </button>
      ))}
      {refusal === '' ? null : (
        <span class="refusal" role="alert">
          {refusal}
        </span>
      )}
    </>
  );
}
