/** What a running daemon says of itself over its control socket. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { dirname, join } from 'node:path';
import type { ExportStatus } from '../../src/daemon/served-volume.ts';
import type { DaemonStatus } from '../../src/daemon/status.ts';
import { type RunningDaemon, waitFor } from '../helpers/daemon.ts';

/** Tries again while the socket is not there, or is a former daemon's. */
export async function statusOf({ socket }: Pick<RunningDaemon, 'socket'>): Promise<DaemonStatus> {
  const asked = request({ socketPath: join(dirname(socket), 'control.sock'), path: '/v1/status' });
  asked.end();
  const [response] = (await once(asked, 'response')) as [IncomingMessage];
  let body = '';
  for await (const chunk of response) body += String(chunk);
  assert.equal(response.statusCode, 200, body);
  return JSON.parse(body) as DaemonStatus;
}

export async function exportOf(daemon: RunningDaemon, name: string): Promise<ExportStatus> {
  const { exports } = await statusOf(daemon);
  const found = exports.find((each) => each.name === name);
  assert(found !== undefined, `${name} is not among ${exports.map((each) => each.name).join(', ')}`);
  return found;
}

/** Waits until the daemon's status is as `is` wants it. */
export function waitForStatus(
  daemon: RunningDaemon,
  what: string,
  is: (status: DaemonStatus) => boolean,
): Promise<void> {
  return waitFor(what, async () => is(await statusOf(daemon)));
}
