/**
 * lvchange -a, vgchange -a and --refresh on the volumes of the daemon that runs the command.
 *
 * Invariants
 *  - What flags and lists keep from being activated is passed over silently, as in LVM2; what can't be served says why.
 *  - A volume in use is not deactivated; the others still are, by lvchange, and none by vgchange.
 *
 * Source: lvchange(8), vgchange(8); messages of LVM2 2.03.16.
 */
import { hostname } from 'node:os';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { type LiveActivation, volumeId } from '../../lvm/live.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { relationsOf } from '../../lvm/relations.ts';
import { hostTags } from '../../lvm/settings/host.ts';
import { isListed, passesVolumeList } from '../../lvm/volume-list.ts';
import type { LogicalVolumeText } from '../../ondisk/metadata.ts';
import type { CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { readActivation } from './values.ts';

type Ref = LiveActivation['refresh'][number];

function refOf({ vg }: VolumeGroup, lv: LogicalVolumeText): Ref {
  return { id: volumeId(vg, lv), name: `${vg.name}/${lv.name}` };
}

/** Activates or deactivates visible LVs as -a says; prints what could not be done. */
export async function switchVolumes(
  context: CommandContext,
  group: VolumeGroup,
  lvs: readonly LogicalVolumeText[],
): Promise<ExitCode> {
  const { activate } = readActivation(context.options.value('activate'));
  const active = await ActiveVolumes.of(context.live, group.vg);
  let code: ExitCode = EXIT.ok;
  const decisions: LiveActivation['decisions'][number][] = [];
  for (const lv of lvs) {
    const volume = refOf(group, lv);
    if (activate ? !isWanted(context, group, lv) : !active.isActive(lv.name)) continue;
    if (!activate && active.isOpen(lv.name)) {
      context.output.error(`Logical volume ${volume.name} in use.`);
      code = EXIT.failed;
    } else decisions.push({ volume, active: activate });
  }
  if (decisions.length === 0 || context.options.has('test')) return code;
  const problems = await context.live.activate({ vgId: group.vg.id, decisions, refresh: [], force: false });
  const asked = new Set(decisions.map(({ volume }) => volume.id));
  for (const { volume, reason } of problems) {
    if (!asked.has(volume.id)) continue;
    context.output.error(`Cannot activate ${volume.name}: ${reason}.`);
    code = EXIT.failed;
  }
  return code;
}

/** Whether flags and lists let -a activate an LV. */
function isWanted({ options, settings }: CommandContext, { vg }: VolumeGroup, lv: LogicalVolumeText): boolean {
  const { auto } = readActivation(options.value('activate'));
  if (lv.flags.includes('ACTIVATION_SKIP') && !options.has('ignoreactivationskip')) return false;
  const tags = hostTags(
    settings.layers.map(({ nodes }) => nodes),
    hostname(),
  );
  if (!passesVolumeList(settings.strings('activation/volume_list'), vg, lv, tags)) return false;
  if (!auto) return true;
  if (lv.flags.includes('NOAUTOACTIVATE') || vg.flags.includes('NOAUTOACTIVATE')) return false;
  const list = settings.strings('activation/auto_activation_volume_list');
  return list === null || isListed(list, vg, lv, tags);
}

/** vgchange -a of a whole VG. */
export async function switchGroup(context: CommandContext, group: VolumeGroup): Promise<ExitCode> {
  const { vg } = group;
  const { activate } = readActivation(context.options.value('activate'));
  const before = await ActiveVolumes.of(context.live, vg);
  const open = before.names.filter((name) => before.isOpen(name));
  const [first] = open;
  if (!activate && first !== undefined) {
    context.output.error(`Logical volume ${vg.name}/${first} in use.`);
    context.output.error(`Can't deactivate volume group "${vg.name}" with ${open.length} open logical volume(s)`);
    return EXIT.failed;
  }
  const visible = [...relationsOf(vg).lvs.values()].filter((facts) => facts.visible).map(({ lv }) => lv);
  const code = await switchVolumes(context, group, visible);
  const after = await ActiveVolumes.of(context.live, vg);
  context.output.print(`${after.names.length} logical volume(s) in volume group "${vg.name}" now active`);
  return code;
}

/** --refresh: tables of active LVs are loaded again. */
export async function refreshVolumes(
  context: CommandContext,
  group: VolumeGroup,
  lvs: readonly LogicalVolumeText[],
): Promise<ExitCode> {
  const active = await ActiveVolumes.of(context.live, group.vg);
  const refresh = lvs.filter((lv) => active.isActive(lv.name)).map((lv) => refOf(group, lv));
  if (refresh.length === 0 || context.options.has('test')) return EXIT.ok;
  const problems = await context.live.activate({ vgId: group.vg.id, decisions: [], refresh, force: false });
  for (const { volume, reason } of problems) context.output.error(`Failed to reload ${volume.name}: ${reason}.`);
  return problems.length === 0 ? EXIT.ok : EXIT.failed;
}
