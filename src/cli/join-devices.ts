/**
 * The devices that vgcreate and vgextend are given, as PVs that can join a VG: orphans as they are, PVs newly made of the
 * others (facts: LVM2 tools/toollib.c pvcreate_each_device with preserve_existing).
 *
 * Invariants
 *  - All of them or none; a PV that was made stays one if the VG then can't be changed, as in LVM2.
 *  - PVs that were there come before those that were made, as in LVM2: their order in the VG is that of allocation.
 */
import assert from 'node:assert/strict';
import type { Changes } from '../lvm/changes.ts';
import { createPvPlan, newPvWrite, type PvCreateRequest } from '../lvm/edit/pv-create.ts';
import type { LabelledDevice, Scan } from '../lvm/model.ts';
import { chooseDevices, deviceNamed, pvStateOf } from '../lvm/pv-devices.ts';
import { newUuid } from '../ondisk/uuid.ts';
import type { CommandContext } from './command.ts';
import { CommandError } from '../lvm/edit/errors.ts';
import { deviceRules } from './pv-options.ts';

/** Under P_global. Throws CommandError when a device can't be used. */
export async function joinDevices(
  command: CommandContext,
  changes: Changes,
  vgName: string,
  names: readonly string[],
  request: PvCreateRequest,
  force: number,
): Promise<readonly LabelledDevice[]> {
  // Before anything is wiped.
  await refuseTwice(changes.scan, vgName, names);
  const { devices } = await chooseDevices(changes, {
    names,
    purpose: 'join',
    force,
    uuid: null,
    sizeSectors: 0,
    ...deviceRules(command),
  });
  const joining: LabelledDevice[] = devices.flatMap(({ state }) => (state.kind === 'orphan' ? state.found : []));
  for (const { name, device, state, topology } of devices) {
    if (state.kind === 'orphan') continue;
    const write = newPvWrite({ name, device, topology, uuid: newUuid() }, request);
    await changes.apply(createPvPlan(name, write));
    const made = pvStateOf(changes.scan, device);
    assert(made.kind === 'orphan', `${name} is no orphan after it was made a PV`);
    joining.push(made.found);
  }
  return joining;
}

async function refuseTwice(scan: Scan, vgName: string, names: readonly string[]): Promise<void> {
  const seen = new Set<string>();
  for (const name of names) {
    const identity = (await deviceNamed(scan, name))?.identity;
    if (identity === undefined) continue;
    if (seen.has(identity)) {
      throw new CommandError([
        `Physical volume '${name}' is already in volume group '${vgName}'`,
        `PV ${name} cannot be added to VG ${vgName}.`,
      ]);
    }
    seen.add(identity);
  }
}
