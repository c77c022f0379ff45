/**
 * pvmove: moves extents of a PV to other PVs; goes on with, or aborts, moves in progress.
 *
 *     pvmove SOURCE[:PE[-PE]…] [DESTINATION[:PE[-PE]…] …]    begins a move, or goes on with the one in progress there
 *     pvmove                                                 goes on with every move in progress
 *     pvmove --abort [SOURCE]                                what was moved stays moved, the rest where it was
 *
 * With --background the daemon goes on with the move, or a process of its own, told by its environment which one: so it never begins
 * another.
 */
import { hostname } from 'node:os';
import { resolve } from 'node:path';
import { barrierOf, passedOverLines, refusedPvLines } from '../../lvm/access.ts';
import { allCandidates, namedCandidates, rangesOf, splitArgument } from '../../lvm/allocate/pv-list.ts';
import type { CandidatePv, ConcretePolicy } from '../../lvm/allocate/request.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { policyOf } from '../../lvm/edit/lv-facts.ts';
import type { PhysicalVolume, Scan, VolumeGroup } from '../../lvm/model.ts';
import { deviceNamed } from '../../lvm/pv-devices.ts';
import { movesOf, type PvMove } from '../../lvm/pvmove/moves.ts';
import { abortMove, carryOutMove, type MoveName } from '../../lvm/pvmove/run.ts';
import { startMove } from '../../lvm/pvmove/start.ts';
import { relationsOf } from '../../lvm/relations.ts';
import { vgsInOrder } from '../../lvm/vg-order.ts';
import type { AllocationPolicy } from '../../ondisk/metadata.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { goOnInBackground } from '../lv/background.ts';
import { allocationSettings } from '../lv/edit.ts';
import { INTERVAL_OPTION, PollProgress } from '../lv/poll-progress.ts';
import { EXIT, type ExitCode, worse } from '../messages.ts';
import { ALLOC_OPTION, AUTOBACKUP_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';

/** Tells a process in the background which move is its own: "VG LVID PV". */
const BACKGROUND_MOVE = 'ORION_LVM_PVMOVE';

const MOVED = { done: 'Moved', doing: 'Moving', unit: 'extents' } as const;

/** A move, and the PV by which it is shown. */
interface NamedMove extends MoveName {
  readonly display: string;
}

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  if (options.value('interval')?.startsWith('-') === true) {
    output.error('Argument to --interval cannot be negative.');
    return EXIT.badUsage;
  }
  const [source, ...destinations] = args;
  if (source === undefined && ['name', 'alloc', 'atomic'].some((name) => options.has(name))) {
    output.error('No command with matching syntax recognised.');
    return EXIT.badUsage;
  }
  const change = await changeContext(context);
  const [vgName, lvId, ...display] = context.env[BACKGROUND_MOVE]?.split(' ') ?? [];
  if (vgName !== undefined && lvId !== undefined) {
    return endOrGoOn(context, change, { vgName, lvId, display: display.join(' ') });
  }
  if (source === undefined) return eachMove(context, change);
  if (source.startsWith('@')) {
    output.error('Tags cannot be used with this command.');
    return options.has('abort') ? EXIT.failed : EXIT.badUsage;
  }
  const move = options.has('abort')
    ? await findMove(change, source)
    : await beginMove(context, change, source, destinations);
  return move === null ? EXIT.ok : endOrGoOn(context, change, move);
}

/** Goes on with (or aborts) every move of every VG. A failure does not keep the others from being done. */
async function eachMove(context: CommandContext, change: ChangeContext): Promise<ExitCode> {
  let code: ExitCode = EXIT.ok;
  const found = await withChanges(change, { globalLock: 'read' }, ({ scan }) => {
    for (const { vg } of vgsInOrder(scan)) for (const line of passedOverLines(vg, change.host)) change.err(line);
    const usable = scan.volumeGroups.filter(({ vg }) => barrierOf(vg, change.host) === null);
    return Promise.resolve(usable.flatMap((group) => movesIn(group)));
  });
  for (const move of found) {
    try {
      code = worse(code, await endOrGoOn(context, change, move));
    } catch (error) {
      if (!(error instanceof CommandError)) throw error;
      for (const line of error.lines) context.output.error(line);
      code = worse(code, error.exitCode);
    }
  }
  return code;
}

async function endOrGoOn(context: CommandContext, change: ChangeContext, move: NamedMove): Promise<ExitCode> {
  const { options, output } = context;
  if (options.has('abort')) {
    if (!(await abortMove(change, move))) output.print(alreadyDone(move.display));
    return EXIT.ok;
  }
  if (options.has('background') && context.env[BACKGROUND_MOVE] === undefined) {
    if (change.test) return EXIT.ok;
    if (context.background === undefined) {
      const value = `${move.vgName} ${move.lvId} ${move.display}`;
      goOnInBackground(context, { name: BACKGROUND_MOVE, value }, 'pvmove');
      return EXIT.ok;
    }
    context.background();
  }
  // The VG was archived when the move began; its steps are no changes that anybody would go back to.
  const quiet = { ...change, backup: { ...change.backup, archive: null } };
  const progress = new PollProgress(context, move.display, MOVED);
  try {
    const outcome = await carryOutMove(quiet, move, (moved, total) => progress.note(moved, total));
    if (outcome === 'finished') progress.finish();
    else if (!change.test) output.print(alreadyDone(move.display));
  } finally {
    progress.stop();
  }
  return EXIT.ok;
}

function alreadyDone(display: string): string {
  return `${display}: No pvmove in progress - already finished or aborted.`;
}

function movesIn(group: VolumeGroup): readonly NamedMove[] {
  return movesOf(group.vg).map((move) => named(group, move));
}

function named(group: VolumeGroup, { lv, source }: PvMove): NamedMove {
  const pv = group.pvs.find(({ text }) => text?.label === source);
  return { vgName: group.vg.name, lvId: lv.id, display: pv?.found?.device.path ?? '[unknown]' };
}

/** The move in progress on a PV; null if there is none, which is said. */
async function findMove(change: ChangeContext, source: string): Promise<NamedMove | null> {
  return onGroupOf(change, source, false, (_changes, group, pv) => {
    const move = movesOf(group.vg).find((candidate) => candidate.source === pv.text?.label);
    if (move !== undefined) return Promise.resolve(named(group, move));
    change.out(alreadyDone(pv.found?.device.path ?? source));
    return Promise.resolve(null);
  });
}

/** Runs `body` on the PV and its VG, under the VG's lock. */
async function onGroupOf<Result>(
  change: ChangeContext,
  source: string,
  begins: boolean,
  body: (changes: Changes, group: VolumeGroup, pv: PhysicalVolume) => Promise<Result>,
): Promise<Result> {
  const { name } = splitArgument(source);
  const vgName = await withChanges(
    change,
    { globalLock: 'read' },
    async ({ scan }) => (await memberOf(change, scan, name, begins)).group,
  );
  return withChanges(change, { vgs: [{ name: vgName.vg.name, mode: 'write' }] }, async (changes) => {
    const { pv } = await memberOf(change, changes.scan, name, begins);
    return body(changes, await changes.volumeGroup({ vgName: vgName.vg.name }), pv);
  });
}

async function memberOf(
  { host }: ChangeContext,
  scan: Scan,
  name: string,
  begins: boolean,
): Promise<{ readonly group: VolumeGroup; readonly pv: PhysicalVolume }> {
  // To LVM2 the word on the command line is wrong where a move is to begin, and nothing can be moved off a PV that is in no VG.
  const failed = begins ? EXIT.badUsage : EXIT.failed;
  const device = await deviceNamed(scan, resolve(name));
  if (device === null) throw new CommandError(`Cannot use ${name}: device not found`, failed);
  const passed: string[] = [];
  for (const group of vgsInOrder(scan)) {
    const { vg, pvs } = group;
    const pv = pvs.find(({ found }) => found?.device.identity === device.identity);
    passed.push(...passedOverLines(vg, host));
    const barrier = barrierOf(vg, host);
    if (pv !== undefined && barrier !== null) {
      throw new CommandError([...passed, ...refusedPvLines(vg, barrier, device.path)], failed);
    }
    if (pv !== undefined) return { group, pv };
  }
  const isPv = scan.orphans.some(({ found }) => found?.device.identity === device.identity);
  if (isPv && begins) throw new CommandError('No extents available for allocation.');
  throw new CommandError([...passed, `Failed to find physical volume "${name}".`], failed);
}

function beginMove(
  context: CommandContext,
  change: ChangeContext,
  source: string,
  destinations: readonly string[],
): Promise<NamedMove> {
  return onGroupOf(change, source, true, async (changes, group, pv) => {
    const { options, settings, output } = context;
    const lvName = options.value('name') === undefined ? null : lvNameOf(group, options.value('name') ?? '');
    const label = pv.text?.label ?? '';
    const running = movesOf(group.vg).find((move) => move.source === label);
    if (running !== undefined) {
      output.print(`Detected pvmove in progress for ${pv.found?.device.path}.`);
      if (destinations.length > 0 || lvName !== null) {
        output.error('WARNING: Ignoring remaining command line arguments.');
      }
      return named(group, running);
    }
    const policy = policyOf(group.vg, options.value('alloc') as AllocationPolicy | undefined);
    const plan = startMove({
      group,
      source: { label, ranges: rangesOf(splitArgument(source).extents, pv) },
      lvName,
      candidates: await candidatesFor(changes, group, label, destinations, policy),
      policy,
      atomic: options.has('atomic'),
      settings: allocationSettings(context),
      regionSectors: settings.int('activation/raid_region_size') * 2,
      creationTime: change.now(),
      creationHost: hostname(),
      say: (line) => output.print(line),
    });
    const started = await changes.apply(plan);
    const move = movesOf((started ?? group).vg).find((candidate) => candidate.source === label);
    if (started === null || move === undefined) throw new CommandError('Creation of temporary pvmove LV failed.');
    return named(started, move);
  });
}

/** What may be allocated from: the PVs that were named, or all; not the source, unless `anywhere` is asked for. */
async function candidatesFor(
  { scan, context }: Changes,
  group: VolumeGroup,
  source: string,
  destinations: readonly string[],
  policy: ConcretePolicy,
): Promise<readonly CandidatePv[]> {
  const devices = new Map<string, string>();
  for (const argument of destinations) {
    const { name } = splitArgument(argument);
    const device = await deviceNamed(scan, resolve(name));
    if (device !== null) devices.set(name, device.identity);
  }
  const find = ({ pvs }: VolumeGroup, name: string): PhysicalVolume | null =>
    pvs.find(({ found }) => found !== null && found.device.identity === devices.get(name)) ?? null;
  const all =
    destinations.length === 0
      ? allCandidates(group)
      : namedCandidates(group, destinations, (line) => context.err(line), find);
  const candidates = all.filter((pv) => policy === 'anywhere' || pv.label !== source);
  if (candidates.length === 0) throw new CommandError('No extents available for allocation.');
  return candidates;
}

/** --name: LV, VG/LV or /dev/VG/LV. Throws CommandError. */
function lvNameOf(group: VolumeGroup, argument: string): string {
  const path = argument.replace(/^\/dev\//, '').replace(/^\/+/, '');
  const slash = path.indexOf('/');
  if (slash < 0 && argument.includes('/')) throw new CommandError('--name takes a logical volume name.', EXIT.badUsage);
  if (slash >= 0 && path.slice(0, slash) !== group.vg.name) {
    throw new CommandError('Named LV and old PV must be in the same VG.', EXIT.badUsage);
  }
  const name = path.slice(slash + 1);
  if (name === '') throw new CommandError('Incomplete LV name supplied with --name.', EXIT.badUsage);
  if (!isValidName(name)) throw new CommandError(`Logical volume name ${name} is invalid.`, EXIT.badUsage);
  if (!relationsOf(group.vg).lvs.has(name)) throw new CommandError(`Logical volume ${name} not found.`);
  return name;
}

export const command: Command = {
  summary: 'Move extents from one physical volume to another',
  argumentsUsage: '[ PV[:PE-PE] [ PV[:PE-PE] ... ] ]',
  options: [
    { long: 'abort', description: 'End moves in progress: what was moved stays moved, the rest is where it was.' },
    ALLOC_OPTION,
    { long: 'atomic', description: 'Move all or nothing: an abort, or a crash, leaves everything where it was.' },
    AUTOBACKUP_OPTION,
    {
      long: 'background',
      short: 'b',
      description: 'Begin the move, and let a process in the background carry it out.',
    },
    INTERVAL_OPTION,
    { long: 'name', short: 'n', argument: 'LV', description: 'Move only the extents of this LV and its parts.' },
    REPORTFORMAT_OPTION,
  ],
  run,
};
