/** Work that may hang, waited for until somebody has had enough. Invariant: what goes on then is nobody's loss; it ends by itself. */

/** The promise's value; rejects with what `reason` makes when the signal aborts first. */
export async function unlessAborted<T>(
  promise: Promise<T>,
  signal: AbortSignal | undefined,
  reason: (cause: unknown) => Error,
): Promise<T> {
  const { promise: abort, reject } = Promise.withResolvers<never>();
  const onAbort = (): void => {
    reject(reason(signal?.reason));
  };
  if (signal?.aborted === true) onAbort();
  signal?.addEventListener('abort', onAbort);
  try {
    return await Promise.race([promise, abort]);
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}
