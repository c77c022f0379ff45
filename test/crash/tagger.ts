/**
 * A process that changes a volume group again and again: `tagger.ts PREFIX ROUNDS LOCKING_DIRECTORY DEVICE…` adds a tag per
 * round and takes every second one away again.
 */
import { PLAIN_HOST } from '../../src/lvm/access.ts';
import type { ChangeContext } from '../../src/lvm/change-context.ts';
import { changeVolumeGroup } from '../../src/lvm/command.ts';
import { EFFECTS } from '../../src/lvm/effects.ts';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import { emptyPlan } from '../../src/lvm/edit/plan.ts';

const [prefix = '', rounds = '', directory = '', ...devices] = process.argv.slice(2);

const context: ChangeContext = {
  devices,
  host: PLAIN_HOST,
  locking: { directory, wait: true, prioritiseWriters: true },
  writer: { commandLine: 'tagger', generator: 'Orion LVM version 0', hostName: 'test', uname: 'Linux test' },
  backup: { archive: null, backup: null },
  hintsDirectory: null,
  effects: EFFECTS,
  test: false,
  yes: 1,
  force: 0,
  prompt: () => Promise.resolve(true),
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  now: () => Math.floor(Date.now() / 1000),
};

function changeTags(edit: (tags: readonly string[]) => readonly string[]): Promise<unknown> {
  return changeVolumeGroup(context, { vgName: 'vg' }, (group) =>
    emptyPlan(group, { ...group.vg, tags: edit(group.vg.tags) }),
  );
}

try {
  for (let round = 0; round < Number(rounds); round++) {
    const tag = `${prefix}${round}`;
    await changeTags((tags) => [...tags, tag]);
    if (round % 2 === 1) await changeTags((tags) => tags.filter((other) => other !== tag));
  }
} catch (error) {
  if (!(error instanceof CommandError)) throw error;
  process.stderr.write(`${error.lines.join('\n')}\n`);
  process.exitCode = 1;
}
