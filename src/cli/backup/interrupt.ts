/**
 * Long work of a command that is ended by a signal: it stops at its next step, and what it began is taken away.
 *
 * Invariant: a second signal ends the process at once.
 */
import { FormatError } from '../../ondisk/errors.ts';
import { NbdClientError } from '../../daemon/client/nbd-client.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** Runs `body`; what images and the daemon fail with becomes a CommandError. */
export async function interruptibly<Result>(
  { signal }: CommandContext,
  body: (signal: AbortSignal) => Promise<Result>,
): Promise<Result> {
  const stop = new AbortController();
  const abort = (): void => stop.abort();
  for (const name of SIGNALS) process.once(name, abort);
  try {
    return await body(AbortSignal.any([signal, stop.signal]));
  } catch (error) {
    if (stop.signal.aborted || signal.aborted) throw new CommandError(EXIT.failed, ['Interrupted.']);
    const told = error instanceof FormatError || error instanceof NbdClientError;
    throw told ? new CommandError(EXIT.failed, [error.message]) : error;
  } finally {
    for (const name of SIGNALS) process.off(name, abort);
  }
}
