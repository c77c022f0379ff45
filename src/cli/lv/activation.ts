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
import { activeForeignMessage, isForeign, PLAIN_HOST } from '../../lvm/access.ts';
import type { ChangeContext } from '../../lvm/change-context.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { hostIds } from '../scan.ts';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { partialVolumes } from '../../lvm/edit/vg-reduce.ts';
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
  if ((group.vg.systemId ?? '') !== '' && isForeign(group.vg, { ...PLAIN_HOST, ...hostIds(context) })) {
    context.output.error(activeForeignMessage(group.vg));
    if (activate) throw new Refusal(`Cannot activate LVs in VG ${group.vg.name}: it is another host's.`);
  }
  const partial = isPartialMode(context);
  const refused = new Set(activate && !partial ? partialNames(group) : []);
  let code: ExitCode = EXIT.ok;
  const decisions: LiveActivation['decisions'][number][] = [];
  for (const lv of lvs) {
    const volume = refOf(group, lv);
    if (activate ? !isWanted(context, group, lv) : !active.isActive(lv.name)) continue;
    if (refused.has(lv.name)) {
      context.output.error(refusingPartial(volume.name));
      code = EXIT.failed;
    } else if (!activate && active.isOpen(lv.name)) {
      context.output.error(`Logical volume ${volume.name} in use.`);
      code = EXIT.failed;
    } else decisions.push({ volume, active: activate, ...(activate && partial ? { partial } : {}) });
  }
  if (decisions.length === 0 || context.options.has('test')) return code;
  const problems = await context.live.activate({ vgId: group.vg.id, decisions, refresh: [], force: false });
  const reasons = new Map(problems.map(({ volume, reason }) => [volume.id, reason]));
  const now = await context.live.status(group.vg.id);
  for (const { volume, active: wanted } of decisions) {
    const status = now.get(volume.id);
    const reason = reasons.get(volume.id) ?? (wanted && status?.active !== true ? status?.reason : undefined);
    if (reason === undefined) continue;
    context.output.error(`Cannot ${wanted ? '' : 'de'}activate ${volume.name}: ${reason}.`);
    code = EXIT.failed;
  }
  return code;
}

/** `change`, by which VGs of other hosts may be deactivated if any of their LVs is active here. */
export async function withActiveForeign(context: CommandContext, change: ChangeContext): Promise<ChangeContext> {
  if (!context.live.present || !context.options.has('activate')) return change;
  const statuses = [...(await context.live.status()).values()].filter(({ active }) => active);
  const active = new Set(statuses.flatMap(({ id }) => id.split(' ', 1)));
  return { ...change, host: { ...change.host, active } };
}

/** Whether LVs of which PVs are missing are activated too. */
export function isPartialMode({ options, settings }: CommandContext): boolean {
  const mode = options.value('activationmode') ?? settings.string('activation/activation_mode');
  return options.has('partial') || mode === 'partial';
}

export function refusingPartial(name: string): string {
  return `Refusing activation of partial LV ${name}.  Use '--activationmode partial' to override.`;
}

/** LVs that users see of which some part is on a PV that is missing. */
export function partialNames({ vg, pvs }: VolumeGroup): readonly string[] {
  const missing = new Set(pvs.filter((pv) => pv.missing).map(({ text }) => text?.label ?? ''));
  if (missing.size === 0) return [];
  return partialVolumes(vg, missing)
    .filter(({ status }) => status.includes('VISIBLE'))
    .map(({ name }) => name);
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
