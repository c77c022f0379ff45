/**
 * pvscan --cache, --listvg and --listlvs: what udev rules run when a PV appears. PVs are recorded as being online, and it is told
 * which VGs are complete by that.
 *
 * Invariants
 *  - Only block devices are recorded, and only by root: LVM2 on the same host counts what is recorded.
 *  - Activation is the daemon's: a running one is told to activate the VG that is complete.
 *
 * Source: pvscan(8); messages of LVM2 2.03.16 (tools/pvscan.c).
 */
import { isExported, isForeign, isShared, PLAIN_HOST } from '../../lvm/access.ts';
import { HINTS_DIRECTORY } from '../../lvm/hints.ts';
import type { LabelledDevice, PhysicalVolume, Scan, VolumeGroup } from '../../lvm/model.ts';
import { OnlineRecords } from '../../lvm/online.ts';
import { partialVolumes } from '../../lvm/edit/vg-reduce.ts';
import { deviceNamed } from '../../lvm/pv-devices.ts';
import { relationsOf } from '../../lvm/relations.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { switchGroup } from '../lv/activation.ts';
import { readVolumeGroups, type Reading } from '../scan.ts';

interface OnlinePv {
  readonly found: LabelledDevice;
  /** Null: the PV is in none, or it is not known. */
  readonly group: VolumeGroup | null;
}

/** Runs pvscan with --cache, --listvg or --listlvs. */
export async function pvscanCache(context: CommandContext): Promise<ExitCode> {
  const { options, args, settings, output } = context;
  const lists = options.has('listvg') || options.has('listlvs');
  if (lists && (args.length !== 1 || options.has('activate'))) throw noSuchSyntax(context.name);
  if (options.has('major') !== options.has('minor')) {
    throw new CommandError(EXIT.badUsage, ['Both --major and --minor required to identify devices.']);
  }
  const events = settings.bool('global/event_activation');
  if (!events && options.has('activate')) {
    if (options.has('verbose')) {
      output.error('Ignoring pvscan --cache -aay because event_activation is disabled.');
    }
    return EXIT.ok;
  }
  if (!events && options.has('checkcomplete')) {
    if (options.has('udevoutput')) output.printPlain('LVM_EVENT_ACTIVATION=0\n');
    else say(context, 'Ignoring pvscan with --checkcomplete because event_activation is disabled.');
    return EXIT.ok;
  }
  if (skips(context, events)) return EXIT.ok;
  const records = await recordsOf(context);
  const reading = await readVolumeGroups(context);
  const everything = args.length === 0 && !options.has('major');
  if (everything && options.has('cache')) await records?.clear();
  const pvs = everything ? everyPv(reading.scan) : await namedPvs(context, reading.scan, records);
  let code: ExitCode = EXIT.ok;
  for (const pv of pvs) {
    if (!ignored(context, reading, pv) && !(await online(context, records, pv))) code = EXIT.failed;
  }
  return code;
}

function say({ output }: CommandContext, text: string): void {
  output.print(`pvscan[${process.pid}] ${text}`);
}

function skips(context: CommandContext, events: boolean): boolean {
  const kind = context.options.value('autoactivation');
  if (kind === undefined || (kind === 'event' && events)) return false;
  say(
    context,
    kind === 'event'
      ? 'Skip pvscan for event with event_activation=0.'
      : 'Skip pvscan for unknown autoactivation value.',
  );
  return true;
}

async function recordsOf({ uid, options }: CommandContext): Promise<OnlineRecords | null> {
  return uid === 0 && options.has('cache') ? OnlineRecords.open(HINTS_DIRECTORY) : null;
}

function everyPv({ volumeGroups, orphans }: Scan): readonly OnlinePv[] {
  return [...volumeGroups.flatMap((group) => present(group.pvs, group)), ...present(orphans, null)];
}

function present(pvs: readonly PhysicalVolume[], group: VolumeGroup | null): readonly OnlinePv[] {
  return pvs.flatMap(({ found }) => (found === null ? [] : { found, group }));
}

async function namedPvs(
  context: CommandContext,
  scan: Scan,
  records: OnlineRecords | null,
): Promise<readonly OnlinePv[]> {
  const { args, options } = context;
  const all = everyPv(scan);
  const pvs: OnlinePv[] = [];
  const numbers = args.filter((arg) => /^\d+:\d+$/.test(arg));
  if (options.has('major')) numbers.push(`${options.value('major')}:${options.value('minor')}`);
  for (const number of numbers) {
    const [major = 0, minor = 0] = number.split(':').map(Number);
    const pv = all.find(({ found: { device } }) => device.major === major && device.minor === minor);
    if (pv !== undefined) pvs.push(pv);
    else await records?.forgetDevice(major, minor);
  }
  for (const name of args) {
    if (numbers.includes(name)) continue;
    const device = await deviceNamed(scan, name);
    const pv = all.find(({ found }) => found.device.identity === device?.identity);
    if (pv !== undefined) pvs.push(pv);
    else if (device === null) say(context, `${name} excluded: device not found.`);
    else say(context, `${name} not an lvm device.`);
  }
  return pvs;
}

/** VGs that are not for this host to activate; says which. */
function ignored(context: CommandContext, { systemId, extraSystemIds }: Reading, { found, group }: OnlinePv): boolean {
  if (group === null) return false;
  const host = { ...PLAIN_HOST, systemId, extraSystemIds };
  const kind = isShared(group.vg)
    ? 'shared'
    : isForeign(group.vg, host)
      ? 'foreign'
      : isExported(group.vg)
        ? 'exported'
        : null;
  if (kind === null) return false;
  say(context, `PV ${found.device.path} ignore ${kind} VG.`);
  return true;
}

/** Gives whether all that was asked for was done. */
async function online(context: CommandContext, records: OnlineRecords | null, pv: OnlinePv): Promise<boolean> {
  const { options } = context;
  const { found, group } = pv;
  const { path, kind } = found.device;
  if (kind === 'block') await records?.notePv(found, group?.vg.name ?? null);
  const checks = options.has('activate') || options.has('checkcomplete');
  const lists = options.has('listvg') || options.has('listlvs');
  if (group === null) {
    say(context, `PV ${path} online.`);
    if (lists) context.output.print('VG unknown');
    return true;
  }
  if (!checks) {
    if (!lists) say(context, `PV ${path} online.`);
    if (lists) context.output.print(`VG ${group.vg.name}`);
    if (options.has('listlvs')) listVolumes(context, group, found, null);
    return true;
  }
  await records?.noteMembers(group);
  const missing =
    records === null ? group.pvs.filter((other) => other.missing).length : await records.countOffline(group);
  const state = missing === 0 ? 'is complete' : `incomplete (need ${missing})`;
  if (!options.has('udevoutput')) say(context, `PV ${path} online, VG ${group.vg.name} ${state}.`);
  if (lists) await listVg(context, records, group, missing === 0);
  if (options.has('listlvs')) listVolumes(context, group, found, missing === 0);
  if (!options.has('activate') || missing > 0) return true;
  return activate(context, records, group);
}

async function listVg(
  { options, output }: CommandContext,
  records: OnlineRecords | null,
  { vg }: VolumeGroup,
  complete: boolean,
): Promise<void> {
  if (complete && options.has('vgonline') && (await records?.noteVg(vg.name)) === false) {
    if (!options.has('udevoutput')) output.print(`VG ${vg.name} finished`);
    return;
  }
  // A udev rule takes KEY=value lines, and nothing if there is anything else.
  if (options.has('udevoutput')) output.printPlain(`LVM_VG_NAME_${complete ? '' : 'IN'}COMPLETE='${vg.name}'\n`);
  else output.print(`VG ${vg.name} ${complete ? 'complete' : 'incomplete'}`);
}

function labelOf(pv: PhysicalVolume): string {
  return pv.text?.label ?? '';
}

/** Visible LVs that use a PV, whatever is between; `complete` is the VG's, null: it was not asked for. */
function listVolumes(
  { output }: CommandContext,
  { vg, pvs }: VolumeGroup,
  { uuid }: LabelledDevice,
  complete: boolean | null,
): void {
  const own = new Set(pvs.filter((pv) => pv.uuid === uuid).map(labelOf));
  const gone = new Set(pvs.filter((pv) => pv.missing).map(labelOf));
  const partial = new Set(partialVolumes(vg, gone).map(({ name }) => name));
  const { lvs } = relationsOf(vg);
  for (const { name } of partialVolumes(vg, own)) {
    if (lvs.get(name)?.visible !== true) continue;
    const state = complete === null ? '' : complete || !partial.has(name) ? ' complete' : ' incomplete';
    output.print(`LV ${vg.name}/${name}${state}`);
  }
}

/** The first one to complete a VG has it activated. Gives whether that went well. */
async function activate(context: CommandContext, records: OnlineRecords | null, group: VolumeGroup): Promise<boolean> {
  const { vg } = group;
  if ((await records?.noteVg(vg.name)) === false && context.args.length > 0) {
    say(context, `VG ${vg.name} skip autoactivation.`);
    return true;
  }
  say(context, `VG ${vg.name} run autoactivation.`);
  if (context.live.present) {
    if ((await switchGroup(context, group)) === EXIT.ok) return true;
    context.output.error(`pvscan[${process.pid}] ${vg.name}: autoactivation failed.`);
    return false;
  }
  context.output.error(
    `WARNING: Logical volumes of ${vg.name} are served by orion-lvmd as it is configured; nothing was activated.`,
  );
  return true;
}
