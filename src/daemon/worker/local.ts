/**
 * A worker in the supervisor's own process (`--workers 0`): the same code behind the same interface, without a channel.
 *
 * Invariant: it can't be gone while the supervisor is there, so `gone` is never told.
 */
import type { Socket } from 'node:net';
import { socketOf } from '../../nbd/socket-handle.ts';
import { withBytesOf } from './handles.ts';
import type { AdoptRequest, WorkerHost } from './host.ts';
import { Worker } from './worker.ts';

export class LocalWorker extends Worker implements WorkerHost {
  readonly index = 0;
  readonly pid: number = process.pid;

  override adopt(request: AdoptRequest, socket: Socket): Promise<void> {
    return super.adopt(withBytesOf(socket, request), socket);
  }

  resumeClient(request: AdoptRequest, handle: object): Promise<void> {
    return super.adopt(request, socketOf(handle));
  }

  kill(): void {
    // It ends with the process.
  }
}
