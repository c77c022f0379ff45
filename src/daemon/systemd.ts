/**
 * Telling systemd how far we are (sd_notify: READY=1, STATUS=…, STOPPING=1, RELOADING=1) where $NOTIFY_SOCKET asks for it.
 *
 * It goes through `systemd-notify`, because Node has no unix datagram sockets; a handful of messages per run of the
 * daemon is worth no native code. The unit therefore needs NotifyAccess=all: the sender is our child.
 *
 * Invariant: a message that can't be sent is logged and changes nothing else.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Logger } from './log.ts';

const run = promisify(execFile);
const TIMEOUT_MS = 5000;

export interface Notifier {
  /** Sends the assignments ("READY=1", "STATUS=…") as one message; resolves when it is sent or has failed. */
  notify(...assignments: readonly string[]): Promise<void>;
}

/** A notifier to the service manager that started us; one that does nothing where none did. */
export function createNotifier(env: Readonly<Record<string, string | undefined>>, log: Logger): Notifier {
  const socket = env['NOTIFY_SOCKET'];
  if (socket === undefined || socket === '') return { notify: () => Promise.resolve() };
  return {
    async notify(...assignments): Promise<void> {
      try {
        await run('systemd-notify', [...assignments], { env, timeout: TIMEOUT_MS });
      } catch (err) {
        log.warn({ err, assignments }, 'cannot tell systemd');
      }
    },
  };
}
