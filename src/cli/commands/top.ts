/**
 * top: what the running daemon does, as it does it. In a terminal a table that renews itself until q; elsewhere, and in a
 * dumb terminal, one picture, of one interval.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Numbers } from '../../observe/stats.ts';
import type { Command, CommandContext } from '../command.ts';
import type { ControlClient } from '../../daemon/client/control-client.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { ask, runningDaemon } from '../running-daemon.ts';
import { Screen } from '../top/screen.ts';
import { topShot } from '../top/shot.ts';

const DEFAULT_SECONDS = 2;

async function run(context: CommandContext): Promise<ExitCode> {
  const client = await runningDaemon(context);
  const intervalMs = Number(context.options.value('interval') ?? DEFAULT_SECONDS) * 1000;
  const first = await numbersOf(client);
  // A dumb terminal can't clear its screen.
  const renews = process.stdin.isTTY && process.stdout.isTTY && context.env['TERM'] !== 'dumb';
  if (renews && !context.options.has('once')) {
    await live(client, first, intervalMs);
    return EXIT.ok;
  }
  await sleep(intervalMs);
  const whole = { columns: Infinity, rows: Infinity };
  for (const line of topShot(first, await numbersOf(client), whole)) context.output.printPlain(`${line}\n`);
  return EXIT.ok;
}

async function numbersOf(client: ControlClient): Promise<Numbers> {
  return (await ask(client, '/v1/numbers')) as Numbers;
}

async function live(client: ControlClient, first: Numbers, intervalMs: number): Promise<void> {
  const screen = new Screen(process.stdin, process.stdout);
  let quit = false;
  const asked = screen.quit.then(() => (quit = true));
  try {
    let before = first;
    screen.draw(topShot(first, first, screen));
    for (;;) {
      await Promise.race([sleep(intervalMs, undefined, { ref: false }), asked]);
      // Set by a key that was pressed meanwhile.
      if (quit as boolean) return;
      const after = await numbersOf(client);
      screen.draw(topShot(before, after, screen));
      before = after;
    }
  } finally {
    screen.close();
  }
}

export const command: Command = {
  summary: 'Show the activity of the running daemon',
  argumentsUsage: '',
  options: [
    {
      long: 'interval',
      short: 'i',
      argument: 'Seconds',
      check: (value) => /^\d{1,4}(\.\d{1,3})?$/.test(value) && Number(value) > 0,
      description: `Seconds between two pictures, and what rates are over. Default ${DEFAULT_SECONDS}.`,
    },
    { long: 'once', short: '1', description: 'One picture, as where there is no terminal.' },
  ],
  run,
};
