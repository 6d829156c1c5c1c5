// Owns the last line of a test run: `N passed, N failed`, with `, N skipped` when there are any.
// Loaded by Jest (jest.config.js).
import { writeSync } from 'node:fs';

export default class TallyReporter {
  onRunComplete(_contexts, results) {
    // A file that cannot even be loaded has no failed tests, and is a failure all the same.
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    const skipped = results.numPendingTests + results.numTodoTests;
    const parts = [`${results.numPassedTests} passed`, `${failed} failed`, ...(skipped ? [`${skipped} skipped`] : [])];
    // Jest prints its own summary after all reporters.
    process.once('exit', () => writeSync(1, `${parts.join(', ')}\n`));
  }
}
