/**
 * A worker process: the supervisor starts it, and talks to it over the channel (protocol.ts).
 *
 * Invariants
 *  - Signals that are meant for the daemon (a terminal and systemd send them to every process) are the supervisor's business.
 *  - When the channel closes, the supervisor has gone: clients are let go after what they sent is answered, everything is flushed
 *    and closed, and the process ends. So nothing is written behind the back of whoever takes the devices next; who that is
 *    waits for the lock that this process inherited.
 *  - An error that nobody expected is logged and ends the process: the supervisor starts another.
 */
import assert from 'node:assert/strict';
import { socketOf } from '../../nbd/socket-handle.ts';
import { sendHandle } from './handles.ts';
import { createLog, type Logger } from '../log.ts';
import type { AdoptRequest, WorkerCommands } from './host.ts';
import type { CommandName, FromWorker, ToWorker } from './protocol.ts';
import { Worker } from './worker.ts';

const EXIT_UNEXPECTED = 1;
const EXIT_FAILED = 5;
const LOST = 'the socket was lost on its way';

let worker: Worker | null = null;
let log: Logger | null = null;
let drained = false;
/** The last adopt that has come. */
let adoptedLast = 0;

for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR2'] as const) process.on(signal, () => undefined);
process.on('message', (message: ToWorker, handle: unknown) => {
  receive(message, handle);
});
process.on('disconnect', () => {
  void end();
});
process.once('uncaughtException', (err, origin) => {
  log?.fatal({ err, origin }, 'unexpected error in a worker');
  process.exit(EXIT_UNEXPECTED);
});

function receive(message: ToWorker, handle: unknown): void {
  if (message.kind === 'start') start(message);
  else if (message.kind === 'adopt') adopt(message, handle);
  else if (message.kind === 'adopting') adopting(message.id);
  else void answer(message.id, () => call(message.name, message.argument));
}

function start({ index, settings }: Extract<ToWorker, { readonly kind: 'start' }>): void {
  process.title = `orion-lvmd: worker ${index}`;
  const logger = createLog({ level: settings.logLevel, format: settings.logFormat });
  log = logger.child({ worker: index });
  worker = new Worker(settings, log, {
    connectionClosed: (connection) => tell({ kind: 'connectionClosed', connection }),
    client: (request, handle) => give(request, handle),
    flushLost: (lost) => tell({ kind: 'flushLost', lost }),
  });
  tell({ kind: 'ready' });
}

async function give(request: AdoptRequest, handle: object): Promise<void> {
  const leaving = sendHandle(process, { kind: 'client', request }, handle);
  tell({ kind: 'given', connection: request.connection });
  await leaving;
}

function adopting(id: number): void {
  if (adoptedLast !== id) tell({ kind: 'failed', id, message: LOST });
}

function adopt({ id, request }: Extract<ToWorker, { readonly kind: 'adopt' }>, handle: unknown): void {
  adoptedLast = id;
  void answer(id, async () => {
    // The client went away while its handle was on its way.
    if (typeof handle !== 'object' || handle === null) throw new Error(LOST);
    const socket = socketOf(handle);
    try {
      await running().adopt(request, socket);
    } catch (error) {
      socket.destroy();
      throw error;
    }
  });
}

async function call(name: CommandName, argument: unknown): Promise<unknown> {
  const commands: WorkerCommands = running();
  const command: (argument: never) => Promise<unknown> = commands[name];
  const value = await command.call(commands, argument as never);
  if (name === 'drain') drained = true;
  return value;
}

function running(): Worker {
  assert(worker !== null, 'asked before it was started');
  return worker;
}

async function answer(id: number, work: () => Promise<unknown>): Promise<void> {
  try {
    tell({ kind: 'answer', id, value: await work() });
  } catch (error) {
    tell({ kind: 'failed', id, message: error instanceof Error ? error.message : String(error) });
  }
}

function tell(message: FromWorker): void {
  // The channel may have closed while something was under way: then nobody waits for it.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined);
}

async function end(): Promise<void> {
  if (drained || worker === null) process.exit(0);
  log?.warn('the supervisor has gone: clients are let go, everything is flushed');
  const problems = await worker.drain();
  for (const reason of problems) log?.error({ reason }, 'something could not be closed');
  process.exit(problems.length === 0 ? 0 : EXIT_FAILED);
}
