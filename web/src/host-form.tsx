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

type Kind = 'ssh' | 'docker-ssh' | 'docker-tls';
const KINDS: Record<Kind, string> = {
  ssh: 'processes, over SSH',
  'docker-ssh': 'containers of a Docker engine, over SSH',
  'docker-tls': 'containers of a Docker engine, by TLS',
};
const ENGINE = { dir: '/var/lib/slipway', helper: 'alpine/git:latest' };
const DEFAULTS: Record<Kind, Record<string, string>> = {
  ssh: { port: '22', dir: '/var/tmp/slipway', shell: '/bin/sh' },
  'docker-ssh': { port: '22', socket: '/var/run/docker.sock', ...ENGINE },
  'docker-tls': { port: '2376', ...ENGINE },
};
/** What says how a host is reached, in the order of the form. */
const REACH: (Field & { of?: Kind[] })[] = [
  { name: 'address', label: 'Address', hint: 'as the workers of the cluster see it' },
  { name: 'port', label: 'Port' },
  { name: 'user', label: 'User', of: ['ssh', 'docker-ssh'], hint: 'that lets the workers in' },
  {
    name: 'hostKeys',
    label: 'Host keys',
    of: ['ssh', 'docker-ssh'],
    hint: 'SHA256:… as ssh-keyscan ADDRESS | ssh-keygen -lf - shows them',
  },
  { name: 'socket', label: 'Socket', of: ['docker-ssh'], hint: 'of the engine' },
  { name: 'dir', label: 'Folder', hint: 'of the runs there' },
  { name: 'shell', label: 'Shell', of: ['ssh'], hint: 'a POSIX one' },
  { name: 'helper', label: 'Helper', of: ['docker-ssh', 'docker-tls'], hint: 'image with sh, and git for checkouts' },
];
const TOKEN_KEY = 'slipway-token';

function kindOf(wish: HostWish): Kind {
  const kind = wish.kind === 'edit' ? wish.host.reach?.kind : undefined;
  return kind === undefined || kind === 'container' ? 'ssh' : kind;
}

function fieldsOf(wish: HostWish, kind: Kind): Field[] {
  if (wish.kind === 'drain') return [{ name: 'reason', label: 'Why', hint: 'people who wait read it' }];
  if (wish.kind === 'undrain' || wish.kind === 'remove') return [];
  const host = wish.kind === 'edit' ? wish.host : undefined;
  const identity: Field[] = [
    { name: 'cluster', label: 'Cluster', value: 'local' },
    { name: 'name', label: 'Name', hint: 'A-Z a-z 0-9 . _ -' },
  ];
  const now = { ...DEFAULTS[kind], ...(host?.reach?.kind === kind ? host.reach : {}) } as Record<string, unknown>;
  const shown = ({ name }: Field): string => [now[name] ?? ''].flat().join(' ');
  return [
    ...(host ? [] : identity),
    ...REACH.filter(({ of }) => !of || of.includes(kind)).map((field) => ({ ...field, value: shown(field) })),
    { name: 'labels', label: 'Labels', value: host?.labels.join(', '), hint: 'with commas', isOptional: true },
    { name: 'slots', label: 'Slots', value: String(host?.slots ?? 1), hint: 'runs at once' },
  ];
}

const split = (text: string, by: RegExp): string[] => text.split(by).filter((part) => part !== '');

/** What the API is asked for. @param values by name of the field */
function changeOf(wish: HostWish, values: Record<string, string>): Change {
  const { reason, cluster = '', name, labels = '', slots, hostKeys, ...rest } = values;
  const path = wish.kind === 'create' ? apiPath.hosts(cluster) : apiPath.host(wish.host.cluster, wish.host.name);
  if (wish.kind === 'drain') return { method: 'POST', path: `${path}/drain`, body: { reason } };
  if (wish.kind === 'undrain') return { method: 'POST', path: `${path}/undrain` };
  if (wish.kind === 'remove') return { method: 'DELETE', path };
  const keys = hostKeys === undefined ? {} : { hostKeys: split(hostKeys, /\s+/) };
  const reach = { ...rest, port: Number(rest['port']), ...keys };
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
  const [kind, setKind] = useState<Kind>(kindOf(wish));
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
        {wish.kind === 'create' || wish.kind === 'edit' ? <KindField kind={kind} onKind={setKind} /> : null}
        {fieldsOf(wish, kind).map((field) => (
          <FormField key={`${kind} ${field.name}`} field={field} />
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

function KindField({ kind, onKind }: { kind: Kind; onKind: (kind: Kind) => void }) {
  return (
    <label>
      Runs are
      <select name="kind" aria-label="Runs are" onChange={(event) => onKind(event.currentTarget.value as Kind)}>
        {Object.entries(KINDS).map(([value, text]) => (
          <option key={value} value={value} selected={value === kind}>
            {text}
          </option>
        ))}
      </select>
    </label>
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
