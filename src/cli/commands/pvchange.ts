/** pvchange: allocatability, tags, uuid and metadata areas of PVs. */
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import { changePv, type PvChangeRequest } from '../../lvm/edit/pv-change.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import type { Command, CommandContext } from '../command.ts';
import { SELECT_OPTION } from '../criteria.ts';
import { yesOrNo } from '../common-options.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax, UnmatchedSyntax } from '../messages.ts';
import {
  ADDTAG_OPTION,
  AUTOBACKUP_OPTION,
  DELTAG_OPTION,
  flagOf,
  FORCE_OPTION,
  REPORTFORMAT_OPTION,
  tagsOf,
} from '../option-values.ts';
import type { OptionSpec } from '../options.ts';
import { METADATAIGNORE_OPTION, pvChangeContext } from '../pv-options.ts';
import { eachPv, type PvTarget } from '../pv-targets.ts';

const OPTIONS: readonly OptionSpec[] = [
  ADDTAG_OPTION,
  DELTAG_OPTION,
  METADATAIGNORE_OPTION,
  FORCE_OPTION,
  AUTOBACKUP_OPTION,
  REPORTFORMAT_OPTION,
  SELECT_OPTION,
  { long: 'all', short: 'a', description: 'All PVs.' },
  {
    long: 'allocatable',
    synonyms: ['allocation'],
    short: 'x',
    argument: 'y|n',
    check: yesOrNo,
    description: 'Whether extents of the PV may be allocated.',
  },
  { long: 'uuid', short: 'u', description: 'Give the PV a new random uuid.' },
];

const CHANGES = ['allocatable', 'addtag', 'deltag', 'uuid', 'metadataignore'] as const;

export const command: Command = {
  summary: 'Change attributes of physical volume(s)',
  argumentsUsage: '[ PV|Tag ... ]',
  options: OPTIONS,
  run: pvchange,
};

async function pvchange(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  if (!CHANGES.some((name) => options.has(name))) throw noSuchSyntax(context.name);
  const all = options.has('all');
  if (all && args.length > 0) throw new UnmatchedSyntax([`Command does not accept argument: ${args[0]}.`]);
  const everything = all || (options.has('select') && args.length === 0);
  if (!everything && args.length === 0) throw noSuchSyntax(context.name);
  const change = await pvChangeContext(context, args);
  let total = 0;
  let done = 0;
  const globalLock = options.has('uuid') ? 'write' : 'read';
  const code = await eachPv(context, change, { all: everything, names: args, globalLock }, async (target) => {
    total++;
    if (await changeOne(target, requestOf(context, change.force))) done++;
  });
  output.print(`${counted(done)} changed / ${counted(total - done)} not changed`);
  return code;
}

function counted(count: number): string {
  return `${count} physical volume${count === 1 ? '' : 's'}`;
}

function requestOf({ options }: CommandContext, force: number): PvChangeRequest {
  return {
    allocatable: flagOf(options, 'allocatable'),
    addTags: tagsOf(options, 'addtag'),
    removeTags: tagsOf(options, 'deltag'),
    metadataIgnore: flagOf(options, 'metadataignore'),
    uuid: options.has('uuid') ? newUuid() : null,
    force,
  };
}

async function changeOne({ changes, group, pv }: PvTarget, request: PvChangeRequest): Promise<boolean> {
  const { context } = changes;
  const copies = group?.vg.metadataCopies ?? 0;
  if (request.metadataIgnore !== null && group !== null && copies !== 0 && request.force === 0) {
    const question = `Override preferred number of copies of VG ${group.vg.name} metadata? [y/n]: `;
    if (!(await context.prompt(question))) {
      throw new CommandError(EXIT.failed, [`Physical volume ${pv.found?.device.path ?? pv.uuid} not changed`]);
    }
  }
  if (group !== null && request.uuid !== null) {
    const active = await ActiveVolumes.of(context.live, group.vg);
    active.refuseAny(`Volume group containing ${pv.found?.device.path ?? pv.uuid} has active logical volumes`);
  }
  const { plan, messages } = changePv(group, pv, request);
  for (const { stream, text } of messages) {
    if (stream === 'stdout') context.out(text);
    else context.err(text);
  }
  if (plan === null) return false;
  await changes.apply(plan);
  return true;
}
