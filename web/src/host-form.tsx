// Owns the dialogs that change hosts: list, edit, drain, undrain, remove. What the API refuses is said in the dialog.
// Opened by hosts-page.tsx.
import { useEffect, useRef, useState } from 'preact/hooks';
import type { HostSummary } from '../../domain/schemas/hosts';
import { apiPath } from '../../domain/names';
import { sendChange, type Change } from './api';

export type HostWish = { kind: 'create' } | { kind: 'edit' | 'drain' | 'undrain' | 'remove'; host: HostSummary };

interface Field {
  name: string;
  label: string;
  value?: string;
  hint?: string;
  isOptional?: boolean;
}

const DEFAULTS = { port: '22', slots: '1', dir: '/var/tmp/slipway', shell: '/bin/sh' };
const TOKEN_KEY = 'slipway-token';

function fieldsOf(wish: HostWish): Field[] {
  if (wish.kind === 'drain') return [{ name: 'reason', label: 'Why', hint: 'people who wait read it' }];
  if (wish.kind === 'undrain' || wish.kind === 'remove') return [];
  const host = wish.kind === 'edit' ? wish.host : undefined;
  const reach = host?.reach?.kind === 'ssh' ? host.reach : undefined;
  const identity: Field[] = [
    { name: 'cluster', label: 'Cluster', value: 'local' },
    { name: 'name', label: 'Name', hint: 'A-Z a-z 0-9 . _ -' },
  ];
  return [
    ...(host ? [] : identity),
    { name: 'address', label: 'Address', value: reach?.address, hint: 'as the workers of the cluster see it' },
    { name: 'port', label: 'Port', value: String(reach?.port ?? DEFAULTS.port) },
    { name: 'user', label: 'User', value: reach?.user, hint: 'runs are its processes' },
    {
      name: 'hostKeys',
      label: 'Host keys',
      value: reach?.hostKeys.join(' '),
      hint: 'SHA256:… as ssh-keyscan ADDRESS | ssh-keygen -lf - shows them',
    },
    { name: 'labels', label: 'Labels', value: host?.labels.join(', '), hint: 'with commas', isOptional: true },
    { name: 'slots', label: 'Slots', value: String(host?.slots ?? DEFAULTS.slots), hint: 'runs at once' },
    { name: 'dir', label: 'Folder', value: reach?.dir ?? DEFAULTS.dir, hint: 'of the runs there' },
    { name: 'shell', label: 'Shell', value: reach?.shell ?? DEFAULTS.shell, hint: 'a POSIX one' },
  ];
}

const split = (text: string, by: RegExp): string[] => text.split(by).filter((part) => part !== '');

/** What the API is asked for. @param values by name of the field */
function changeOf(wish: HostWish, values: Record<string, string>): Change {
  const { reason, cluster = '', name, labels = '', slots, hostKeys = '', ...rest } = values;
  const path = wish.kind === 'create' ? apiPath.hosts(cluster) : apiPath.host(wish.host.cluster, wish.host.name);
  if (wish.kind === 'drain') return { method: 'POST', path: `${path}/drain`, body: { reason } };
  if (wish.kind === 'undrain') return { method: 'POST', path: `${path}/undrain` };
  if (wish.kind === 'remove') return { method: 'DELETE', path };
  const reach = { kind: 'ssh', ...rest, port: Number(rest['port']), hostKeys: split(hostKeys, /\s+/) };
  const fields = { labels: split(labels, /\s*,\s*/), slots: Number(slots), reach };
  return wish.kind === 'create'
    ? { method: 'POST', path, body: { name, ...fields } }
    : { method: 'PATCH', path, body: fields };
}

const TITLES = { create: 'List a host', edit: 'Edit', drain: 'Drain', undrain: 'Undrain', remove: 'Remove' };

function titleOf(wish: HostWish): string {
  return wish.kind === 'create' ? TITLES.create : `${TITLES[wish.kind]} ${wish.host.name}`;
}

export function HostDialog({ wish, onDone }: { wish: HostWish; onDone: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [refusal, setRefusal] = useState('');
  useEffect(() => dialog.current?.showModal(), []);
  const send = async (form: HTMLFormElement): Promise<void> => {
    const { token = '', ...values } = Object.fromEntries(
      [...new FormData(form)].map(([name, value]) => [name, String(value).trim()]),
    );
    sessionStorage.setItem(TOKEN_KEY, token);
    const trouble = await sendChange({ ...changeOf(wish, values), token });
    if (trouble === null) onDone();
    else setRefusal(trouble.detail);
  };
  const title = titleOf(wish);
  return (
    <dialog ref={dialog} class="form" aria-label={title} onClose={onDone}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void send(event.currentTarget);
        }}
      >
        <h2>{title}</h2>
        {fieldsOf(wish).map((field) => (
          <FormField key={field.name} field={field} />
        ))}
        <label>
          Token
          <input
            name="token"
            aria-label="Token"
            type="password"
            autocomplete="off"
            defaultValue={sessionStorage.getItem(TOKEN_KEY) ?? ''}
          />
          <small>of an operator; kept until this tab is closed</small>
        </label>
        {refusal === '' ? null : (
          <p class="refusal" role="alert">
            {refusal}
          </p>
        )}
        <div class="buttons">
          <button type="button" class="quiet" onClick={() => dialog.current?.close()}>
            Leave it
          </button>
          <button type="submit">{title}</button>
        </div>
      </form>
    </dialog>
  );
}

function FormField({ field: { name, label, value = '', hint, isOptional = false } }: { field: Field }) {
  return (
    <label>
      {label}
      <input
        name={name}
        aria-label={label}
        defaultValue={value}
        required={!isOptional}
        autocomplete="off"
        spellcheck={false}
      />
      {hint === undefined ? null : <small>{hint}</small>}
    </label>
  );
}
