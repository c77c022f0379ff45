/**
 * A daemon that hands over to a program of the test's, and does not wait for it as long as others do.
 *   node handing-daemon.ts PROGRAM ARGUMENT PATIENCE FLAGS...   PATIENCE: JSON
 */
import { daemonSurroundings, loadSettings, type Settings } from '../../src/daemon/config.ts';
import { parseFlags } from '../../src/daemon/flags.ts';
import type { Patience } from '../../src/daemon/handover/hand-over.ts';
import { explained, serve } from '../../src/daemon/run.ts';

const [, , main = '', argument = '', patience = '{}', ...flags] = process.argv;
const parsed = parseFlags(flags, 'test');
if ('output' in parsed) throw new Error(parsed.output);
const load = (): Settings => loadSettings(parsed.flags, daemonSurroundings());
process.exitCode = await explained(() =>
  serve({
    settings: load(),
    load,
    program: { main, args: [argument] },
    patience: JSON.parse(patience) as Partial<Patience>,
  }),
);
