/** vgimportclone: makes a volume group of its own from a copy of another's devices. */
import { resolve } from 'node:path';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { accessProblem } from '../../lvm/access.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { cloneName, importClonePlan } from '../../lvm/edit/vg-import-clone.ts';
import type { Scan, ScannedDevice, VolumeGroup } from '../../lvm/model.ts';
import { deviceNamed } from '../../lvm/pv-devices.ts';
import { scanDevices } from '../../lvm/scan.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { withoutDevDirectory } from '../names.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  if (args.length === 0) {
    output.error('Please enter a physical volume path.');
    return EXIT.badUsage;
  }
  const base = options.value('basevgname');
  const named = args.map((path) => resolve(context.cwd, path));
  const all = await changeContext(context, options.has('devices') ? [] : named);
  // The copies alone: beside their originals they would be duplicates.
  const change: ChangeContext = { ...all, devices: named };
  await withChanges(change, { globalLock: 'write' }, async (changes) => {
    const devices = await devicesNamed(changes.scan, named);
    const oldName = vgNameOn(changes.scan, devices);
    const taken = await otherNames(all, devices);
    const newName = cloneName(oldName, base === undefined ? null : withoutDevDirectory(base), taken);
    if (!isValidName(newName)) throw new CommandError(`New volume group name "${newName}" is invalid.`);
    for (const name of [oldName, newName].sort()) await changes.lockName(name);
    const group = groupOn(changes, oldName);
    await refuseActive(context, group);
    await changes.apply(
      importClonePlan({
        group,
        devices,
        newName,
        importExported: options.has('import'),
        systemId: change.host.systemId,
      }),
    );
  });
  return EXIT.ok;
}

async function devicesNamed(scan: Scan, paths: readonly string[]): Promise<readonly ScannedDevice[]> {
  const devices: ScannedDevice[] = [];
  for (const path of paths) {
    const device = await deviceNamed(scan, path);
    if (device === null) throw new CommandError(`Failed to find device ${path}.`);
    devices.push(device);
  }
  return devices;
}

/** The name of the one VG that the devices belong to. Throws CommandError if it is not one. */
function vgNameOn(scan: Scan, devices: readonly ScannedDevice[]): string {
  for (const device of devices) {
    const isPv = [...scan.volumeGroups.flatMap((group) => group.pvs), ...scan.orphans].some(
      ({ found }) => found?.device.identity === device.identity,
    );
    if (!isPv) throw new CommandError(`Failed to find PVID for device ${device.path}.`);
  }
  const [group, other] = scan.volumeGroups;
  if (group === undefined) throw new CommandError('No VG found on devices.');
  if (other !== undefined) throw new CommandError('Devices must be from the same VG.');
  return group.vg.name;
}

/** Names of the VGs on all other devices. */
async function otherNames(all: ChangeContext, devices: readonly ScannedDevice[]): Promise<readonly string[]> {
  const own = new Set(devices.map((device) => device.path));
  const scan = await scanDevices(
    all.devices.filter((path) => !own.has(path)),
    all.scan,
  );
  const foreign = scan.unreadable.map(({ name }) => name);
  return [...scan.volumeGroups.map(({ vg }) => vg.name), ...foreign];
}

async function refuseActive({ live }: CommandContext, { vg, pvs }: VolumeGroup): Promise<void> {
  // Of a clone and what it was copied from one can be served; it counts where its devices are held.
  if ((await ActiveVolumes.of(live, vg)).names.length === 0) return;
  const lines: string[] = [];
  for (const { found } of pvs) {
    if (found === null || !(await live.holds(found.device.identity))) continue;
    lines.push(`Device ${found.device.path} has active LVs, deactivate first.`);
  }
  if (lines.length > 0) throw new CommandError(lines);
}

function groupOn({ scan, context }: Changes, vgName: string): VolumeGroup {
  const group = scan.volumeGroups.find(({ vg }) => vg.name === vgName);
  if (group === undefined) throw new CommandError(`Failed to read VG ${vgName} from devices being imported.`);
  // Whose locks and leases the original has does not matter to a copy.
  const problem = accessProblem(group.vg, { ...context.host, allowShared: true });
  if (problem !== null) {
    throw new CommandError([problem, `Error reading VG ${vgName} from devices being imported.`]);
  }
  return group;
}

export const command: Command = {
  summary: 'Import a VG from cloned PVs',
  argumentsUsage: 'PV ...',
  options: [
    {
      long: 'basevgname',
      short: 'n',
      argument: 'VG',
      description:
        'The name of the new volume group; a number is added if it is taken. Default: the old name and a number.',
    },
    { long: 'import', short: 'i', description: 'Import an exported volume group.' },
  ],
  run,
};
