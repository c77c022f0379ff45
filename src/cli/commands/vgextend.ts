/** vgextend: PVs join a volume group; with --restoremissing PVs that came back are used again. */
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { extendVgPlan, type NamedPv, restoreMissingPlan } from '../../lvm/edit/vg-extend.ts';
import { deviceNamed } from '../../lvm/pv-devices.ts';
import type { LabelledDevice, VolumeGroup } from '../../lvm/model.ts';
import type { Command, CommandContext } from '../command.ts';
import { joinDevices } from '../join-devices.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { AUTOBACKUP_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';
import { METADATAIGNORE_OPTION, PV_LAYOUT_OPTIONS, pvChangeContext, pvCreateRequest } from '../pv-options.ts';
import { vgNameArgument } from '../vg-targets.ts';

export const command: Command = {
  summary: 'Add physical volumes to a volume group',
  argumentsUsage: 'VG PV ...',
  options: [
    ...PV_LAYOUT_OPTIONS,
    METADATAIGNORE_OPTION,
    AUTOBACKUP_OPTION,
    REPORTFORMAT_OPTION,
    { long: 'restoremissing', description: 'Use PVs again that were missing, with the data that they have.' },
  ],
  run: vgextend,
};

async function vgextend(context: CommandContext): Promise<ExitCode> {
  const { options, args } = context;
  const names = args.slice(1);
  if (names.length === 0) {
    throw noSuchSyntax(context.name);
  }
  const pvRequest = pvCreateRequest(context, null);
  const vgName = vgNameArgument(context);
  const change = await pvChangeContext(context, names);
  return withChanges(change, { globalLock: 'write' }, async (changes) => {
    const request = { vgName, handlesMissing: true };
    if (options.has('restoremissing')) {
      const group = await changes.volumeGroup(request);
      await changes.apply(restoreMissingPlan(group, await namedPvs(changes, group, names)));
      return EXIT.ok;
    }
    // Of a VG that is there and can't be read, that is to be said before anything is written.
    if (changes.scan.unreadable.some(({ name }) => name === vgName)) await changes.volumeGroup(request);
    // As in LVM2, --force does not make a PV of another VG join.
    const joining = await joinDevices(context, changes, vgName, names, pvRequest, 0);
    const group = await changes.volumeGroup(request);
    if (!context.settings.bool('devices/allow_mixed_block_sizes')) checkBlockSizes(group, joining);
    const ignores = options.has('metadataignore');
    if (ignores) await confirmCopies(changes, group);
    await changes.apply(extendVgPlan(group, joining, ignores));
    return EXIT.ok;
  });
}

/** Throws CommandError for a device whose blocks are of another size than the VG's, unless these differ already. */
function checkBlockSizes(group: VolumeGroup, joining: readonly LabelledDevice[]): void {
  const sizes = new Set(group.pvs.flatMap(({ found }) => found?.device.logicalBlockSize ?? []));
  const [size] = sizes;
  if (size === undefined || sizes.size > 1) return;
  for (const { device } of joining) {
    const own: number = device.logicalBlockSize ?? size;
    if (own === size) continue;
    throw new CommandError(EXIT.failed, [`Devices have inconsistent logical block sizes (${size} and ${own}).`]);
  }
}

async function confirmCopies({ context }: Changes, { vg }: VolumeGroup): Promise<void> {
  if ((vg.metadataCopies ?? 0) === 0 || context.yes > 0) return;
  if (await context.prompt(`Override preferred number of copies of VG ${vg.name} metadata? [y/n]: `)) return;
  throw new CommandError(EXIT.failed, [`Volume group ${vg.name} not changed`]);
}

async function namedPvs(changes: Changes, group: VolumeGroup, names: readonly string[]): Promise<readonly NamedPv[]> {
  const named: NamedPv[] = [];
  for (const name of names) {
    const device = await deviceNamed(changes.scan, name);
    const byDevice = group.pvs.find((pv) => pv.found !== null && pv.found.device.identity === device?.identity);
    const byHint = group.pvs.find((pv) => pv.found === null && pv.text?.device === name);
    named.push({ name, uuid: (byDevice ?? byHint)?.uuid ?? null });
  }
  return named;
}
