/** vgsplit: moves PVs with the LVs on them into a new or an existing volume group. */
import { hostname } from 'node:os';
import { ActiveVolumes } from '../../lvm/active-volumes.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { importSplit, type NewGroupOptions, type SplitRequest, splitPlans } from '../../lvm/edit/vg-split.ts';
import type { VolumeGroup } from '../../lvm/model.ts';
import { deviceNamed } from '../../lvm/pv-devices.ts';
import type { VolumeGroupText } from '../../ondisk/metadata.ts';
import { newUuid } from '../../ondisk/uuid.ts';
import { isValidName } from '../../ondisk/vg-validate.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { refuseAttachedLvs } from '../lv/attached.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import { withoutDevDirectory } from '../names.ts';
import {
  allocationPolicyOf,
  ALLOC_OPTION,
  AUTOBACKUP_OPTION,
  countOf,
  flagOf,
  isCount,
  isMetadataCopies,
  metadataCopies,
} from '../option-values.ts';
import { yesOrNo } from '../common-options.ts';

const NEW_GROUP_OPTIONS: readonly string[] = ['alloc', 'maxphysicalvolumes', 'maxlogicalvolumes', 'vgmetadatacopies'];

async function run(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  const lvName = options.value('name');
  if ((lvName === undefined ? 0 : 1) + args.length < 3) {
    output.error('Existing VG, new VG and either physical volumes or logical volume required.');
    return EXIT.badUsage;
  }
  if (lvName !== undefined && args.length > 2) {
    output.error('A logical volume name cannot be given with physical volumes.');
    return EXIT.failed;
  }
  const [fromName, toName] = args.slice(0, 2).map(withoutDevDirectory);
  if (fromName === undefined || toName === undefined) return EXIT.badUsage;
  if (fromName === toName) throw new CommandError(`Duplicate volume group name "${fromName}"`);
  if (!isValidName(toName)) throw new CommandError(`Invalid vg name ${toName}.`);
  const vgs = [fromName, toName].filter(isValidName).map((name) => ({ name, mode: 'write' as const }));
  const change = await changeContext(context);
  await withChanges(change, { globalLock: 'write', vgs }, async (changes) => {
    const to = changes.scan.volumeGroups.some(({ vg }) => vg.name === toName)
      ? await changes.volumeGroup({ vgName: toName })
      : null;
    const from = await changes.volumeGroup({ vgName: fromName });
    if (to !== null && NEW_GROUP_OPTIONS.some((name) => options.has(name))) {
      throw new CommandError(`Volume group "${toName}" exists, but new VG option specified`);
    }
    const request: SplitRequest = {
      from,
      to: to ?? newGroup(context, toName),
      what: lvName === undefined ? { pvs: await pvsNamed(changes, from, args.slice(2)) } : { lvName: lvOf(lvName) },
      spare: {
        wanted: flagOf(options, 'poolmetadataspare') ?? true,
        creationTime: context.now,
        creationHost: hostname(),
      },
    };
    const { exported, remaining } = splitPlans(request);
    await refuseActive(context, from, remaining?.after ?? null);
    const group = await changes.apply(exported);
    if (remaining !== null) await changes.apply(remaining);
    if (group !== null) await changes.apply(importSplit(group, fromName, to !== null));
  });
  return EXIT.ok;
}

/** "VG/LV" or "LV". */
function lvOf(name: string): string {
  return name.slice(name.lastIndexOf('/') + 1);
}

/** What moves to another VG is another volume there: nobody may have it. */
async function refuseActive(
  { live }: CommandContext,
  { vg }: VolumeGroup,
  left: VolumeGroupText | null,
): Promise<void> {
  const staying = new Set(left?.logicalVolumes.map((lv) => lv.id));
  const active = await ActiveVolumes.of(live, vg);
  const going = vg.logicalVolumes.filter((lv) => !staying.has(lv.id)).map(({ name }) => name);
  await refuseAttachedLvs(live, vg, going);
  const moving = going.find((name) => active.isActive(name));
  if (moving !== undefined) throw new CommandError(`Logical volume ${vg.name}/${moving} must be inactive.`);
}

async function pvsNamed(changes: Changes, group: VolumeGroup, names: readonly string[]): Promise<readonly string[]> {
  const uuids: string[] = [];
  for (const name of names) {
    const device = await deviceNamed(changes.scan, name.replaceAll(/\\([:@])/g, '$1'));
    const pv = group.pvs.find(({ found }) => device !== null && found?.device.identity === device.identity);
    // A PV that was named twice is no longer there the second time.
    if (pv === undefined || uuids.includes(pv.uuid)) {
      throw new CommandError(`Physical volume ${name} not in volume group ${group.vg.name}`);
    }
    uuids.push(pv.uuid);
  }
  return uuids;
}

function newGroup({ options }: CommandContext, name: string): NewGroupOptions {
  const allocationPolicy = allocationPolicyOf(options);
  if (allocationPolicy === 'inherit') {
    throw new CommandError('Volume Group allocation policy cannot inherit from anything', EXIT.badUsage);
  }
  const maxLv = countOf(options, 'maxlogicalvolumes');
  const maxPv = countOf(options, 'maxphysicalvolumes');
  const copies = metadataCopies(options.value('vgmetadatacopies') ?? 'unmanaged');
  return {
    name,
    id: newUuid(),
    ...(allocationPolicy === null ? {} : { allocationPolicy }),
    ...(maxLv === null ? {} : { maxLv }),
    ...(maxPv === null ? {} : { maxPv }),
    // All of them is what LVM2 stores as unmanaged.
    metadataCopies: copies === 'all' ? 0 : copies,
  };
}

export const command: Command = {
  summary: 'Move physical volumes into a new or existing volume group',
  argumentsUsage: 'VG VG [ PV ... ]',
  options: [
    { ...ALLOC_OPTION, description: 'The allocation policy of a new volume group. Default: as in the old one.' },
    AUTOBACKUP_OPTION,
    {
      long: 'maxlogicalvolumes',
      short: 'l',
      argument: 'Number',
      check: isCount,
      description: 'The most LVs that a new volume group may have; 0: no limit. Default: as in the old one.',
    },
    {
      long: 'maxphysicalvolumes',
      short: 'p',
      argument: 'Number',
      check: isCount,
      description: 'The most PVs that a new volume group may have; 0: no limit. Default: as in the old one.',
    },
    {
      long: 'metadatatype',
      short: 'M',
      argument: 'lvm2',
      check: (value) => value === 'lvm2' || value === '2',
      description: 'Nothing to choose: there is one type of metadata.',
    },
    {
      long: 'name',
      short: 'n',
      argument: 'LV',
      description: 'Move the PVs that this LV uses, with all that is on them.',
    },
    {
      long: 'poolmetadataspare',
      argument: 'y|n',
      check: yesOrNo,
      description: 'Whether spares for pool metadata are made or dropped as the pools need it. Default: yes.',
    },
    {
      long: 'vgmetadatacopies',
      argument: 'all|unmanaged|Number',
      check: isMetadataCopies,
      description: 'How many copies of its metadata a new volume group keeps. Default: unmanaged.',
    },
  ],
  run,
};
