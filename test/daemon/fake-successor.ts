/**
 * A process that a daemon hands over to, and that fails: how, says the file that its argument names. It speaks as far as the step before
 * (handover/messages.ts), and then does what it is told.
 */
import { readFileSync } from 'node:fs';
import type { FromSuccessor, ToSuccessor } from '../../src/daemon/handover/messages.ts';

const [, , file = ''] = process.argv;
/** What is heard, or "start"; and what follows. */
const [at, act] = readFileSync(file, 'utf8').trim().split(': ');

function say(message: FromSuccessor): void {
  process.send?.(message);
}

function answer(kind: 'start' | ToSuccessor['kind']): void {
  if (kind === at) {
    if (act === 'exit') process.exit(7);
    if (act === 'lose') say({ kind: 'looked', lost: [{ name: 'vg/one', reason: 'it is not liked' }] });
    if (act === 'lie') say({ kind: 'serving' });
    // Also when the channel is closed.
    if (act === 'hang') setInterval(() => undefined, 60_000);
    process.stdout.write(`it is at ${at}\n`);
    return;
  }
  if (kind === 'estate') say({ kind: 'ready' });
  if (kind === 'look') say({ kind: 'looked', lost: [] });
}

process.stdout.write(`fake successor ${process.pid}\n`);
process.on('message', (message: ToSuccessor) => answer(message.kind));
answer('start');
