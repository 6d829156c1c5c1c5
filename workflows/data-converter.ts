// Owns how payloads and failures become values inside workflows: what cannot be read becomes nothing, and never an error.
// Whoever completes an activity or sends a signal chooses the bytes. An error of the SDK's own converters would fail the task of
// the workflow again and again, and stop its build for ever.
// Named by path where the workflows are bundled: workers/orchestrator.ts and scripts/build.mjs.
import {
  DefaultFailureConverter,
  DefaultPayloadConverter,
  TemporalFailure,
  type Payload,
  type PayloadConverter,
} from '@temporalio/common';

class TolerantPayloadConverter extends DefaultPayloadConverter {
  /** @returns undefined when it cannot be read; whoever wants it takes that for no answer */
  // oxlint-disable-next-line typescript/no-unnecessary-type-parameters -- as the SDK declares it
  override fromPayload<T>(payload: Payload): T {
    try {
      return super.fromPayload<T>(payload);
    } catch {
      return undefined as T;
    }
  }
}

class TolerantFailureConverter extends DefaultFailureConverter {
  override failureToError(...failure: Parameters<DefaultFailureConverter['failureToError']>): Error {
    try {
      return super.failureToError(...failure);
    } catch {
      return new TemporalFailure('its failure cannot be read');
    }
  }
}

export const payloadConverter: PayloadConverter = new TolerantPayloadConverter();
export const failureConverter = new TolerantFailureConverter();
