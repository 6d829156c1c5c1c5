// Owns the facts beside the log: where the attempt ran, its artifacts, environment and script.
// Used by run-page.tsx.
import type { Artifact, Attempt, NotStoredFiles, Run } from '../../domain/schemas/api';
import { apiPath, pagePath } from '../../domain/names';
import { toLocalPath } from './api';
import { Age, Duration } from './clock';
import { countOf, formatBytes, formatDuration, joinFacts } from './format';
import { usePolled, type PollOptions } from './poll';
import { Fact, Pending } from './shell-parts';

const DIGEST_CHARS = 12;

/** The first characters tell digests apart; the whole is in the tooltip. */
function Digest({ digest }: { digest: string }) {
  const hex = digest.slice(digest.indexOf(':') + 1);
  return (
    <code class="digest" title={digest}>
      {hex.slice(0, DIGEST_CHARS)}
    </code>
  );
}

export function RunFacts({ run, attempt }: { run: Run; attempt: Attempt | null }) {
  return (
    <section aria-labelledby="facts-title">
      <h2 id="facts-title">Facts</h2>
      <dl class="facts is-list">
        {Object.entries(run.cell).map(([axis, value]) => (
          <Fact key={axis} name={axis}>
            {value}
          </Fact>
        ))}
        <Fact name="Cluster">
          <a href={pagePath.cluster(run.cluster)}>{run.cluster}</a>: {run.placement.reason}
        </Fact>
        {attempt === null ? null : <AttemptFacts attempt={attempt} attempts={run.attempts.length} />}
        <Fact name="Image">
          <code>{run.spec.container}</code>
        </Fact>
        {run.commit === null ? null : (
          <Fact name="Commit">
            <Digest digest={run.commit} />
          </Fact>
        )}
        <Fact name="Time-out">{formatDuration(run.spec.timeoutMs)}</Fact>
        {run.spec.needs.length === 0 ? null : (
          <Fact name="Needs">
            <Needs run={run} />
          </Fact>
        )}
      </dl>
    </section>
  );
}

/** More are folded away: a run may need hundreds. */
const NEEDS_SHOWN = 5;

function Needs({ run }: { run: Run }) {
  const { needs } = run.spec;
  const links = (
    <ul>
      {needs.map((name) => (
        <li key={name}>
          <a href={pagePath.run(run.project, run.build, name)}>{name}</a>
        </li>
      ))}
    </ul>
  );
  if (needs.length <= NEEDS_SHOWN) return links;
  return (
    <details>
      <summary>{countOf(needs.length, 'run')}</summary>
      {links}
    </details>
  );
}

function AttemptFacts({ attempt, attempts }: { attempt: Attempt; attempts: number }) {
  return (
    <>
      {attempts === 1 ? null : (
        <Fact name="Outcome">{joinFacts([attempt.outcome ?? attempt.state, attempt.message], ': ')}</Fact>
      )}
      <Fact name="Host">{attempt.host ?? 'none yet'}</Fact>
      {attempt.hostsBeside.map(({ name, host }) => (
        <Fact key={name} name={`Host ${name}`}>
          {host}
        </Fact>
      ))}
      {attempt.worker === null ? null : (
        <Fact name="Worker">
          <span class="clip">{attempt.worker}</span>
        </Fact>
      )}
      <Fact name="Attempt">
        {attempt.number} of {attempts}
      </Fact>
      {attempt.exitCode === null ? null : <Fact name="Exit code">{attempt.exitCode}</Fact>}
      {attempt.startedAt === null ? null : (
        <>
          <Fact name="Started">
            <Age at={attempt.startedAt} />
          </Fact>
          <Fact name="Ran for">
            <Duration span={attempt} />
          </Fact>
        </>
      )}
      {attempt.imageDigest === null ? null : (
        <Fact name="Image digest">
          <Digest digest={attempt.imageDigest} />
        </Fact>
      )}
      {attempt.containerId === null ? null : (
        <Fact name="Container">
          <Digest digest={attempt.containerId} />
        </Fact>
      )}
    </>
  );
}

/** The API lists those of the newest attempt; with several attempts that must be said. */
function artifactsText(artifacts: Artifact[], attempts: Attempt[]): string {
  const [first] = artifacts;
  if (first === undefined) return '';
  const totalBytes = artifacts.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const ofAttempt = attempts.length > 1 ? ` of attempt ${first.attempt}` : '';
  return `${countOf(artifacts.length, 'file')}, ${formatBytes(totalBytes)}${ofAttempt}`;
}

/** Of the chosen attempt; those of the newest come with the run. */
export function RunArtifacts({ run, attempt }: { run: Run; attempt: Attempt | null }) {
  const isOlder = attempt !== null && attempt.number !== run.attempts.at(-1)?.number;
  return (
    <>
      {isOlder ? (
        <OlderArtifacts run={run} attempt={attempt.number} />
      ) : (
        <ArtifactList run={run} artifacts={run.artifacts} />
      )}
      {attempt?.notStored ? <NotStored notStored={attempt.notStored} /> : null}
    </>
  );
}

/** What lies in the archive of the attempt and is no artifact. */
function NotStored({ notStored: { count, files } }: { notStored: NotStoredFiles }) {
  return (
    <details>
      <summary>{countOf(count, 'thing')} in /archive not stored</summary>
      <ul>
        {files.map(({ path, why }) => (
          <li key={path}>
            <code>{path === '/' ? '/archive' : path}</code>: {why}
          </li>
        ))}
      </ul>
    </details>
  );
}

const ONCE: PollOptions<{ artifacts: Artifact[] }> = { paceOf: () => 'stop' };

function OlderArtifacts({ run, attempt }: { run: Run; attempt: number }) {
  const url = `${apiPath.artifacts(run.project, run.build, run.name)}?attempt=${attempt}`;
  const polled = usePolled<{ artifacts: Artifact[] }>(url, ONCE);
  if (polled.data === null) return <Pending polled={polled} what={`artifacts of attempt ${attempt}`} />;
  return <ArtifactList run={run} artifacts={polled.data.artifacts} />;
}

function ArtifactList({ run, artifacts }: { run: Run; artifacts: Artifact[] }) {
  return (
    <section aria-labelledby="artifacts-title">
      <h2 id="artifacts-title">
        Artifacts <span class="muted">{artifactsText(artifacts, run.attempts)}</span>
      </h2>
      {artifacts.length === 0 ? (
        <p class="muted">{run.state === 'finished' ? 'None.' : 'None yet; they are collected when the script ends.'}</p>
      ) : (
        <ul class="artifacts">
          {artifacts.map((artifact) => (
            <ArtifactRow key={artifact.path} artifact={artifact} />
          ))}
        </ul>
      )}
    </section>
  );
}

function ArtifactRow({ artifact }: { artifact: Artifact }) {
  return (
    <li>
      <a href={toLocalPath(artifact.url)} download={artifact.path.split('/').at(-1)} title={artifact.contentType}>
        {artifact.path}
      </a>
      <span class="muted number" title={`${artifact.sizeBytes} bytes`}>
        {formatBytes(artifact.sizeBytes)}
      </span>
      <Digest digest={artifact.digest} />
    </li>
  );
}

export function RunEnvironment({ run }: { run: Run }) {
  const entries = Object.entries(run.spec.env).sort(([a], [b]) => a.localeCompare(b));
  if (entries.length === 0) return null;
  return (
    <details open>
      <summary>
        Environment <span class="muted">{entries.length}</span>
      </summary>
      <table class="environment">
        <tbody>
          {entries.map(([name, value]) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              <td>{value}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

export function RunScript({ run }: { run: Run }) {
  return (
    <details open>
      <summary>Script</summary>
      <pre class="script" tabIndex={0}>
        {run.spec.script}
      </pre>
    </details>
  );
}
