/**
 * lvchange: properties of LVs, each LV in a commit of its own.
 *
 * -a: an LV is active while orion-lvmd serves it (cli/lv/activation.ts). Without a daemon, `-a y` says whether this one could be served,
 * and `-a n` has nothing to deactivate.
 */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { activationPlan } from '../../lvm/activate.ts';
import { changeLv, type LvProperty } from '../../lvm/edit/lv-change.ts';
import type { Changes } from '../../lvm/changes.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import type { LvFacts } from '../../lvm/relations.ts';
import { isPvmove } from '../../lvm/relations.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { readDeviceNumbers } from '../lv/device-numbers.ts';
import { refreshVolumes, switchVolumes, withActiveForeign } from '../lv/activation.ts';
import { attachedLvs, inUse } from '../lv/attached.ts';
import { eachVgOfLvs, type Meant } from '../lv/each.ts';
import { noted, say } from '../lv/edit.ts';
import * as option from '../lv/options.ts';
import { unmatched, isYes, readActivation, readReadAhead } from '../lv/values.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { partialLvs } from '../report/fields/usage.ts';
import {
  ADDTAG_OPTION,
  ALLOC_OPTION,
  allocationPolicyOf,
  AUTOBACKUP_OPTION,
  DELTAG_OPTION,
  FORCE_OPTION,
  METADATAPROFILE_OPTION,
  profileOf,
  tagsOf,
} from '../option-values.ts';

export const command: Command = {
  summary: 'Change the attributes of logical volume(s)',
  argumentsUsage: 'VG|LV|Tag ...',
  options: [
    ADDTAG_OPTION,
    DELTAG_OPTION,
    ALLOC_OPTION,
    option.CONTIGUOUS,
    option.PERMISSION,
    option.READAHEAD,
    option.SETACTIVATIONSKIP,
    option.SETAUTOACTIVATION,
    { long: 'detachprofile', description: 'Detach the metadata profile.' },
    METADATAPROFILE_OPTION,
    option.PERSISTENT,
    option.MINOR,
    option.MAJOR,
    option.ACTIVATE,
    option.IGNOREACTIVATIONSKIP,
    {
      long: 'refresh',
      description: 'Load the tables of active LVs again. Without a running orion-lvmd there are none.',
    },
    FORCE_OPTION,
    AUTOBACKUP_OPTION,
    SELECT_OPTION,
    ...option.ACTIVATION_OPTIONS,
    ...option.SURROUNDINGS,
  ],
  run,
};

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, args } = context;
  const properties = propertiesOf(context);
  const changes = properties.length > 0;
  const polls = options.has('monitor') || options.has('poll');
  if (!changes && !polls && !options.has('activate') && !options.has('refresh')) throw noSuchSyntax(context.name);
  if (options.has('activate') && options.has('refresh')) throw unmatched('Command does not accept option: --refresh.');
  if (args.length === 0 && !options.has('select')) throw noSuchSyntax(context.name);
  const change = await withActiveForeign(context, await changeContext(context));
  let code: ExitCode = EXIT.ok;
  if (changes) {
    code = await eachVgOfLvs(context, change, { handlesMissing: true }, (meant, session) =>
      changeAll(context, meant, session, properties),
    );
  }
  if (code !== EXIT.ok) return code;
  if (options.has('refresh') && context.live.present) {
    code = await eachVgOfLvs(context, change, { mode: 'read', handlesMissing: true }, ({ group, lvs }) =>
      refreshVolumes(
        context,
        group,
        lvs.map(({ lv }) => lv),
      ),
    );
  }
  if (!options.has('activate')) {
    if (changes || options.has('refresh')) return code;
    return eachVgOfLvs(context, change, { mode: 'read', handlesMissing: true }, (meant) =>
      refuseInactive(context, meant),
    );
  }
  if (changes) context.output.error('WARNING: Combining activation change with other commands is not advised.');
  return eachVgOfLvs(context, change, { handlesMissing: true }, (meant) =>
    context.live.present ? activateLive(context, meant) : activateAll(context, meant),
  );
}

/** In the order in which LVM2 takes them. */
function propertiesOf(context: CommandContext): readonly LvProperty[] {
  const { options, output } = context;
  const properties: LvProperty[] = [];
  for (const kind of ['addtag', 'deltag'] as const) {
    const tags = tagsOf(options, kind);
    if (tags.length > 0) properties.push({ kind, tags });
  }
  if (options.has('alloc') && options.has('contiguous')) {
    throw unmatched('Command does not accept option combination: --contiguous with --alloc');
  }
  const policy = allocationPolicyOf(options);
  if (policy !== null) properties.push({ kind: 'alloc', policy });
  else if (options.has('contiguous')) {
    properties.push({ kind: 'alloc', policy: isYes(options.value('contiguous')) ? 'contiguous' : 'inherit' });
  }
  const permission = options.value('permission');
  if (permission !== undefined) properties.push({ kind: 'permission', writable: permission !== 'r' });
  const readAhead = options.value('readahead');
  if (readAhead !== undefined) {
    properties.push({ kind: 'readahead', sectors: readReadAhead(readAhead, (line) => output.error(line)) });
  }
  for (const kind of ['setactivationskip', 'setautoactivation'] as const) {
    if (options.has(kind)) properties.push({ kind, on: isYes(options.value(kind)) });
  }
  const profile = options.has('detachprofile') ? '' : profileOf(options);
  if (profile !== null) {
    if (profile === '' && profileOf(options) !== null) {
      throw new CommandError(EXIT.badUsage, ['Only one of --metadataprofile and --detachprofile permitted.']);
    }
    properties.push({ kind: 'profile', name: profile });
  }
  if (options.has('persistent')) properties.push({ kind: 'persistent', device: readDeviceNumbers(context) });
  else if (options.has('minor') || options.has('major')) throw noSuchSyntax(context.name);
  return properties;
}

async function changeAll(
  context: CommandContext,
  meant: Meant,
  changes: Changes,
  properties: readonly LvProperty[],
): Promise<ExitCode> {
  let { group } = meant;
  let code: ExitCode = EXIT.ok;
  for (const facts of meant.lvs) {
    const refusal = refusalOf(group.vg.name, facts);
    if (refusal !== null) {
      if (!meant.named.has(facts.name)) continue;
      context.output.error(refusal);
      code = EXIT.failed;
      continue;
    }
    const broken = brokenRule(context, group, facts);
    if (broken !== null) {
      const name = `${group.vg.name}/${facts.name}`;
      context.output.error(`Command on LV ${name} uses options that are invalid with LV properties: ${broken} .`);
      if (!meant.named.has(facts.name)) continue;
      context.output.error(`Command not permitted on LV ${name}.`);
      code = EXIT.failed;
      continue;
    }
    const { plan, refused, messages } = noted(context, (notes) => changeLv(group, facts.name, properties, notes));
    for (const line of refused) context.output.error(line);
    if (refused.length > 0) code = EXIT.failed;
    if (plan === null) say(context, messages);
    else group = (await changes.apply(plan)) ?? group;
  }
  return code;
}

/** --monitor and --poll alone: there is nothing to do, but for LVs that are active. */
async function refuseInactive({ live, output }: CommandContext, { group, lvs }: Meant): Promise<ExitCode> {
  const active = await ActiveVolumes.of(live, group.vg);
  const inactive = lvs.filter(({ name, visible }) => visible && !active.isActive(name));
  for (const { name } of inactive) output.error(`Logical volume ${group.vg.name}/${name} is not active.`);
  return inactive.length > 0 ? EXIT.failed : EXIT.ok;
}

const NOT_OF_ORIGINS = ['alloc', 'contiguous', 'metadataprofile', 'profile', 'readahead'] as const;

/** LVM2's word for what an LV is that some of the options do not go with; null: they all do. */
function brokenRule({ options }: CommandContext, group: VolumeGroup, facts: LvFacts): string | null {
  const notPersistent = options.has('persistent') && !isYes(options.value('persistent'));
  const notOfOrigins = notPersistent || NOT_OF_ORIGINS.some((long) => options.has(long));
  if (facts.snapshots.length > 0 && notOfOrigins) return 'lv_is_thick_origin';
  return options.has('alloc') && partialLvs(group).has(facts.name) ? 'lv_is_partial' : null;
}

/** LVs that LVM2 does not change by themselves. */
function refusalOf(vgName: string, facts: LvFacts): string | null {
  const part = facts.usedBy.some((use) => use.kind === 'mirror-image' || use.kind === 'mirror-log');
  if (isPvmove(facts.lv) || part) return `Command not permitted on LV ${vgName}/${facts.name}.`;
  return facts.visible ? null : `Operation not permitted on hidden LV ${vgName}/${facts.name}.`;
}

/** The daemon that runs this command serves the LVs, or no longer. */
async function activateLive(context: CommandContext, { group, lvs, named }: Meant): Promise<ExitCode> {
  const hidden = lvs.filter(({ name, visible }) => !visible && named.has(name));
  for (const { name } of hidden) {
    context.output.error(`Operation not permitted on hidden LV ${group.vg.name}/${name}.`);
  }
  const visible = lvs.filter((facts) => facts.visible).map(({ lv }) => lv);
  const code = await switchVolumes(context, group, visible);
  return hidden.length > 0 ? EXIT.failed : code;
}

/** Of what the kernel still has attached, it is not said that it is inactive now. */
async function refuseOpen(
  { live, output }: CommandContext,
  { group, lvs }: Pick<Meant, 'group' | 'lvs'>,
): Promise<ExitCode> {
  const attached = await attachedLvs(live, group.vg);
  let code: ExitCode = EXIT.ok;
  for (const { name } of lvs) {
    const kernelName = attached.get(name);
    if (kernelName === undefined) continue;
    for (const line of inUse(`${group.vg.name}/${name}`, kernelName)) output.error(line);
    code = EXIT.failed;
  }
  return code;
}

/** Without a daemon nothing is served: what is asked for is only looked at. */
async function activateAll(context: CommandContext, { group, lvs, named }: Meant): Promise<ExitCode> {
  const { activate, auto } = readActivation(context.options.value('activate'));
  if (!activate) return refuseOpen(context, { group, lvs });
  const plan = activationPlan(group, {
    host: { systemId: group.vg.systemId ?? null, extraSystemIds: [], allowForeign: false, allowShared: false },
    ignoreActivationSkip: context.options.has('ignoreactivationskip'),
    ignoreNoAutoActivate: !auto,
  });
  const byName = new Map(plan.map((entry) => [entry.lv.name, entry]));
  let code: ExitCode = EXIT.ok;
  for (const { name, visible } of lvs) {
    const entry = byName.get(name);
    if (!visible || entry === undefined) {
      if (!named.has(name)) continue;
      context.output.error(`Operation not permitted on hidden LV ${group.vg.name}/${name}.`);
      code = EXIT.failed;
    } else if (!entry.active && !entry.reason.startsWith('flagged ')) {
      context.output.error(`Cannot activate ${entry.exportName}: ${entry.reason}.`);
      code = EXIT.failed;
    } else if (context.options.has('verbose')) {
      const how = entry.active ? 'is served by orion-lvmd while it runs' : `is not served: ${entry.reason}`;
      context.output.print(`Logical volume ${entry.exportName} ${how}.`);
    }
  }
  return code;
}
