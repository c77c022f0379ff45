/** pvcreate: makes physical volumes of devices and files. */
import { readFile } from 'node:fs/promises';
import { createPvPlan, newPvWrite, type PvCreateRequest } from '../../lvm/edit/pv-create.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { type ChosenDevice, chooseDevices } from '../../lvm/pv-devices.ts';
import type { RestoredPlaces } from '../../lvm/pv-layout.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { formatUuid, newUuid, parseUuid } from '../../ondisk/uuid.ts';
import { parseMetadataText } from '../../ondisk/vg-text.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { isSizeIn, REPORTFORMAT_OPTION } from '../option-values.ts';
import type { OptionSpec } from '../options.ts';
import {
  deviceRules,
  METADATAIGNORE_OPTION,
  PV_LAYOUT_OPTIONS,
  PVMETADATACOPIES_OPTION,
  pvChangeContext,
  pvCreateRequest,
  SETPHYSICALVOLUMESIZE_OPTION,
} from '../pv-options.ts';

const OPTIONS: readonly OptionSpec[] = [
  ...PV_LAYOUT_OPTIONS.filter((option) => option !== PVMETADATACOPIES_OPTION),
  { ...PVMETADATACOPIES_OPTION, synonyms: ['metadatacopies'] },
  METADATAIGNORE_OPTION,
  SETPHYSICALVOLUMESIZE_OPTION,
  REPORTFORMAT_OPTION,
  {
    long: 'bootloaderareasize',
    argument: 'Size[m|UNIT]',
    check: isSizeIn('m'),
    description: 'Space kept for a boot loader before the extents.',
  },
  {
    long: 'uuid',
    short: 'u',
    argument: 'String',
    description: 'The uuid of the PV, with --restorefile or --norestorefile.',
  },
  { long: 'restorefile', argument: 'String', description: 'A backup file: the PV gets the layout that it has there.' },
  { long: 'norestorefile', description: 'With --uuid: there is no backup file to restore from.' },
];

export const command: Command = {
  summary: 'Initialize physical volume(s) for use by LVM',
  argumentsUsage: 'PV ...',
  options: OPTIONS,
  run: pvcreate,
};

async function pvcreate(context: CommandContext): Promise<ExitCode> {
  const { options, args } = context;
  if (args.length === 0) throw noSuchSyntax(context.name);
  const uuid = checkedUuid(context);
  const restored = uuid === null ? null : await restoredPlaces(options.value('restorefile'), uuid);
  const request = pvCreateRequest(context, restored);
  const change = await pvChangeContext(context, args);
  return withChanges(change, { globalLock: 'write' }, async (changes) => {
    const { devices, failed } = await chooseDevices(changes, {
      names: args,
      purpose: 'create',
      force: change.force,
      uuid,
      sizeSectors: request.sizeSectors,
      ...deviceRules(context),
    });
    let code: ExitCode = failed ? EXIT.failed : EXIT.ok;
    for (const device of devices) {
      if (!(await createOne(changes, device, request, uuid))) code = EXIT.failed;
    }
    return code;
  });
}

/** One device's failure does not keep the others from being made PVs. */
async function createOne(
  changes: Changes,
  { name, device, topology }: ChosenDevice,
  request: PvCreateRequest,
  uuid: string | null,
): Promise<boolean> {
  try {
    const size = device.sizeBytes / 512;
    if (request.sizeSectors > size) {
      changes.context.err(`WARNING: ${name}: Overriding real size. You could lose data.`);
    }
    await changes.apply(createPvPlan(name, newPvWrite({ name, device, topology, uuid: uuid ?? newUuid() }, request)));
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    for (const line of error.lines) changes.context.err(line);
    return false;
  }
}

function checkedUuid({ options, args, settings }: CommandContext): string | null {
  if (options.has('norestorefile') && options.has('restorefile')) {
    refuse('Command does not accept option combination: --norestorefile  with --restorefile');
  }
  if (options.has('bootloaderareasize') && options.has('restorefile')) {
    refuse('Command does not accept option combination: --bootloaderareasize  with --restorefile');
  }
  const text = options.value('uuid');
  const needsFile = settings.bool('devices/require_restorefile_with_uuid');
  if (options.has('restorefile') && text === undefined) refuse('--uuid is required with --restorefile');
  if (!options.has('restorefile') && text !== undefined && !options.has('norestorefile') && needsFile) {
    refuse('--restorefile is required with --uuid');
  }
  if (text !== undefined && args.length !== 1) refuse('Can only set uuid on one volume at once');
  return text === undefined ? null : readUuid(text);
}

function readUuid(text: string): string {
  if (text.replaceAll('-', '').length !== 32) refuse("Couldn't read uuid: incorrect number of characters.");
  const raw = parseUuid(text);
  if (raw === null) refuse(`UUID contains invalid character '${/[^0-9a-zA-Z!#-]/.exec(text)?.[0] ?? ''}'`);
  return formatUuid(raw);
}

/** Where the PV's parts were, by a backup file; null without one. */
async function restoredPlaces(path: string | undefined, uuid: string): Promise<RestoredPlaces | null> {
  if (path === undefined) return null;
  try {
    const { vg } = parseMetadataText(await readFile(path), { device: path, offset: 0 });
    const pv = vg.physicalVolumes.find(({ id }) => id === uuid);
    if (pv === undefined) return refuse(`Can't find uuid ${uuid} in backup file ${path}`);
    return {
      peStartSectors: pv.peStartSectors,
      extentSizeSectors: vg.extentSizeSectors,
      extentCount: pv.peCount,
      baStartSectors: pv.baStartSectors ?? 0,
      baSizeSectors: pv.baSizeSectors ?? 0,
    };
  } catch (error) {
    if (error instanceof FormatError) refuse(error.message, `Unable to read volume group from ${path}`);
    if (!(error instanceof Error) || !('code' in error)) throw error;
    return refuse(`${path}: ${error.message}`, `Unable to read volume group from ${path}`);
  }
}

function refuse(...lines: readonly string[]): never {
  throw new CommandError(EXIT.badUsage, lines);
}
