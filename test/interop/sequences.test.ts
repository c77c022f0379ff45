/**
 * Long random sequences of commands on loop devices. After each one the real vgck, pvck, pvs, vgs and lvs accept what is there
 * without a warning and report what ours report, and every extent of every LV still holds what it held.
 *
 *     ours            every command is ours
 *     alternating     ours and the real ones take turns, and the real ones make LVs of types that ours must keep intact
 *
 * ORION_LVM_SEQUENCES=N plays N of each kind with new seeds; ORION_LVM_SEQUENCE_STEPS their length; ORION_LVM_SEED=S the one
 * with that seed (with ORION_LVM_SEQUENCE_KIND only that kind). Needs root, lvm2 and gcc (test/setup).
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { COMMANDS } from '../../src/cli/commands/table.ts';
import type { Scan } from '../../src/lvm/model.ts';
import { segmentReferences } from '../../src/lvm/references.ts';
import type { LogicalVolumeText, VolumeGroupText } from '../../src/ondisk/metadata.ts';
import { type CommandLine, foreignCommand, nextCommand, type World } from './commands.ts';
import { Contents } from './contents.ts';
import { Dice } from './dice.ts';
import { type Lab, withLab } from './lab.ts';

type Kind = 'ours' | 'alternating';

const env = process.env;
const COUNT = Number(env['ORION_LVM_SEQUENCES'] ?? '1');
/** The bounded form plays the same sequence each time; who asks for a number of them gets new ones. */
const FIRST_SEED = env['ORION_LVM_SEQUENCES'] === undefined ? 364_994_279 : Date.now();
const STEPS = Number(env['ORION_LVM_SEQUENCE_STEPS'] ?? '70');
const SEED = env['ORION_LVM_SEED'] === undefined ? null : Number(env['ORION_LVM_SEED']);
const ONLY = env['ORION_LVM_SEQUENCE_KIND'];
const MIB = 2 ** 20;
/** The real ones that are part of alternating sequences without being asked for a type of their own. */
const FOREIGN = 0.25;

/** One sequence; what it did goes into `log` as lines that a shell understands. */
class Sequence {
  readonly #dice: Dice;
  readonly #kind: Kind;
  readonly #contents = new Contents();
  readonly #lab: Lab;
  readonly log: string[] = [];
  /** By exit code. */
  readonly outcomes = new Map<string, number>();

  constructor(dice: Dice, kind: Kind, lab: Lab) {
    this.#dice = dice;
    this.#kind = kind;
    this.#lab = lab;
  }

  async play(steps: number): Promise<void> {
    for (let step = 0; step < steps; step++) {
      const before = await this.#lab.scan();
      await this.#step(before);
      const after = await this.#lab.scan();
      // What a refused command left as it was has been judged.
      if (written(after) !== written(before)) await this.#lab.agree();
      await this.#contents.follow(after);
    }
  }

  async #step(scan: Scan): Promise<void> {
    const { devices, folder } = this.#lab;
    const world: World = { scan, devices, folder, known: new Set(COMMANDS.keys()) };
    const real = this.#kind === 'alternating' && this.#dice.chance(0.5);
    const foreign = real && this.#dice.chance(FOREIGN) ? foreignCommand(this.#dice, world) : null;
    const line = foreign ?? nextCommand(this.#dice, world);
    // What the shim holds is not on the PVs, so the real pvmove would lose data.
    const byUs = !real || line[0] === 'pvmove';
    const [command, ...args] = line;
    this.log.push(`${byUs ? 'ours  ' : 'theirs'} ${line.map(quoted).join(' ')}`);
    const { status, stdout, stderr } = await (byUs
      ? this.#lab.ours(command, ...args)
      : this.#lab.theirs(command, ...args));
    const said = `${stdout}${stderr}`.trimEnd().replaceAll(/^/gm, '           | ');
    this.log.push(`       -> ${status}\n${said}`);
    const key = `${byUs ? 'ours' : 'theirs'} ${command} ${status}`;
    this.outcomes.set(key, (this.outcomes.get(key) ?? 0) + 1);
    if (!byUs) return;
    assert.ok(status === 0 || status === 3 || status === 5, `exit code ${status}`);
    assert.doesNotMatch(stderr, /Internal error/);
    keepsOthers(line, scan, await this.#lab.scan());
  }
}

/** Everything that commands write but for what LVs hold. */
function written({ volumeGroups, orphans }: Scan): string {
  return JSON.stringify([
    volumeGroups.map(({ rawText, pvs }) => [rawText.toString('latin1'), pvs.map(({ found }) => found)]),
    orphans.map(({ found }) => found),
  ]);
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word}'`;
}

/** A command about one LV leaves those that have nothing to do with it as they were, and a refused one all of them. */
function keepsOthers(line: CommandLine, before: Scan, after: Scan): void {
  if (!line[0].startsWith('lv')) return;
  const target =
    line[0] === 'lvcreate'
      ? undefined
      : line.findLast((word) => before.volumeGroups.some(({ vg }) => word.startsWith(`${vg.name}/`)));
  for (const { vg } of before.volumeGroups) {
    const now = after.volumeGroups.find((group) => group.vg.id === vg.id)?.vg;
    assert(now !== undefined, `${vg.name} is gone`);
    const related = relatedTo(vg, target === undefined || !target.startsWith(`${vg.name}/`) ? null : target);
    for (const lv of vg.logicalVolumes.filter(({ name }) => !related.has(name))) {
      const same: LogicalVolumeText | undefined = now.logicalVolumes.find(({ id }) => id === lv.id);
      assert.deepEqual(same, lv, `${vg.name}/${lv.name} changed`);
    }
  }
}

/** Names of the LV called `target` ("vg/lv") and all that it is tied to. */
function relatedTo(vg: VolumeGroupText, target: string | null): ReadonlySet<string> {
  if (target === null) return new Set();
  const related = new Set([target.slice(vg.name.length + 1)]);
  const pvs = new Set(vg.physicalVolumes.map(({ label }) => label));
  const names = (lv: LogicalVolumeText): readonly string[] =>
    lv.segments.flatMap((segment) => segmentReferences(segment, (name) => pvs.has(name)).map(({ name }) => name));
  for (let size = 0; size !== related.size;) {
    size = related.size;
    for (const lv of vg.logicalVolumes) {
      const tied = [lv.name, ...names(lv)];
      // One spare serves all pools.
      if (tied.some((name) => related.has(name)) || lv.status.includes('SPARE') || lv.name.endsWith('_pmspare')) {
        for (const name of tied) related.add(name);
      }
    }
  }
  return related;
}

async function play(kind: Kind, seed: number): Promise<string> {
  const dice = new Dice(seed);
  const sizes = Array.from({ length: dice.int(3, 6) }, () => dice.int(32, 48) * MIB + dice.int(0, 3) * 4096);
  let summary = '';
  await withLab(sizes, async (lab) => {
    const sequence = new Sequence(dice, kind, lab);
    try {
      await sequence.play(STEPS);
    } catch (error) {
      const replay = `ORION_LVM_SEED=${seed} ORION_LVM_SEQUENCE_KIND=${kind} ORION_LVM_SEQUENCE_STEPS=${STEPS}`;
      const log = sequence.log.join('\n').replaceAll(`${lab.folder}/`, '');
      throw new Error(`${replay}; devices of ${sizes.join(', ')} bytes\n${log}`, { cause: error });
    }
    const counts = [...sequence.outcomes].map(([key, count]) => `${key}: ${count}`);
    summary = counts.toSorted((a, b) => a.localeCompare(b)).join(', ');
  });
  return summary;
}

for (const kind of ['ours', 'alternating'] as const) {
  if (ONLY !== undefined && ONLY !== kind) continue;
  void describe(`sequences of commands, ${kind}`, () => {
    for (let count = 0; count < COUNT; count++) {
      const seed = SEED ?? (FIRST_SEED + count * 7919) % 1_000_000_000;
      void test(`seed ${seed}`, { timeout: 60_000 + STEPS * 10_000 }, async (t) => {
        t.diagnostic(await play(kind, seed));
      });
    }
  });
}
