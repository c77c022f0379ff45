import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { settleAll, singleErrors } from '../../src/daemon/errors.ts';

function fails(message: string): Promise<never> {
  return Promise.reject(new Error(message));
}

describe('errors of closing', () => {
  test('everything is waited for, and each failure can be told', async () => {
    let ended = false;
    const late = new Promise<void>((resolve) => {
      setImmediate(() => {
        ended = true;
        resolve();
      });
    });
    const closing = new AsyncDisposableStack();
    closing.defer(() => settleAll([fails('first device'), late, fails('second device')], 'devices'));
    closing.defer(() => fails('volume'));
    const error: unknown = await closing.disposeAsync().then(
      () => null,
      (reason: unknown) => reason,
    );
    assert.equal(ended, true);
    const messages = singleErrors(error).map((each) => (each instanceof Error ? each.message : each));
    assert.deepEqual(messages, ['volume', 'first device', 'second device']);
    await settleAll([late], 'nothing failed');
  });
});
