/**
 * A worker in the supervisor's own process (`--workers 0`): the same code behind the same interface, without a channel.
 *
 * Invariant: it can't be gone while the supervisor is there, so `gone` is never told.
 */
import type { Socket } from 'node:net';
import { withBytesOf } from './handles.ts';
import type { AdoptRequest, WorkerEvents, WorkerHost } from './host.ts';
import { Worker, type WorkerLog, type WorkerSettings } from './worker.ts';

export class LocalWorker extends Worker implements WorkerHost {
  readonly index = 0;
  readonly pid: number = process.pid;

  constructor(settings: WorkerSettings, log: WorkerLog, events: WorkerEvents) {
    super(settings, log, (connection) => events.connectionClosed(connection));
  }

  override adopt(request: AdoptRequest, socket: Socket): Promise<void> {
    return super.adopt(withBytesOf(socket, request), socket);
  }

  kill(): void {
    // It ends with the process.
  }
}
