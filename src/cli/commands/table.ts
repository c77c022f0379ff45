/**
 * Every command by its name, loaded when it is run: start-up time is the user's.
 *
 * Invariant: the names are LVM2's (and `config`, which is ours), in alphabetical order; bin/ has each of them.
 */
import type { Command } from '../command.ts';

interface Entry {
  readonly summary: string;
  load(): Promise<{ readonly command: Command }>;
}

export const COMMANDS: ReadonlyMap<string, Entry> = new Map<string, Entry>([
  ['fullreport', { summary: 'Display full report', load: () => import('./fullreport.ts') }],
  ['lvs', { summary: 'Display information about logical volumes', load: () => import('./lvs.ts') }],
  ['pvs', { summary: 'Display information about physical volumes', load: () => import('./pvs.ts') }],
  ['vgs', { summary: 'Display information about volume groups', load: () => import('./vgs.ts') }],
]);
