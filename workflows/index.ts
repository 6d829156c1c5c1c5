// Owns the list of workflows that go into the bundle. Named by path in workers/orchestrator.ts and scripts/build.mjs.
export { build } from './build';
export { maintenance } from './maintenance';
export { onDemandHost } from './on-demand-host';
export { shell } from './shell';
