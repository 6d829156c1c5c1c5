// Owns how the tests are run: TypeScript by swc, everything built and found once beforehand, a tally as the last line.
// Read by Jest; `npm test` (scripts/test.mjs) installs what the tests need and then calls Jest.
'use strict';

/** @type {import('jest').Config} */
module.exports = {
  roots: ['<rootDir>/test'],
  testEnvironment: 'node',
  transform: {
    '^.+\\.ts$': [
      '@swc/jest',
      {
        jsc: { parser: { syntax: 'typescript' }, target: 'es2022' },
        module: { type: 'commonjs' },
        sourceMaps: 'inline',
      },
    ],
  },
  globalSetup: '<rootDir>/test/setup/prepare.ts',
  testTimeout: 60_000,
  // Real servers and containers run beside the tests; two cores are what a small machine has.
  maxWorkers: 2,
  reporters: ['default', '<rootDir>/scripts/tally-reporter.mjs'],
};
