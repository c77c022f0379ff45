/**
 * The repairing half of pvck: --repair and --repairtype (facts: LVM2 tools/pvck.c).
 *
 * Invariant: a file that is no metadata of a volume group is never written, whatever the answers are.
 */
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError } from '../../lvm/edit/errors.ts';
import { dropHints } from '../../lvm/hints.ts';
import type { LabelledDevice, Scan } from '../../lvm/model.ts';
import { openExclusively } from '../../lvm/open.ts';
import {
  type MetadataFile,
  repairLabelHeader,
  repairMetadata,
  repairPvHeader,
  type RepairContext,
  type RepairSettings,
} from '../../lvm/pv-repair.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { encodeText } from '../../ondisk/text-bytes.ts';
import { formatUuid, isUuid, parseUuid } from '../../ondisk/uuid.ts';
import { metadataTextBytes, parseMetadataText } from '../../ondisk/vg-text.ts';
import { changeContext } from '../change.ts';
import type { CommandContext } from '../command.ts';
import { EXIT, type ExitCode } from '../messages.ts';
import type { OptionSpec } from '../options.ts';

const REPAIR_TYPES: ReadonlySet<string> = new Set(['pv_header', 'metadata', 'label_header']);

export const PVCK_REPAIR_OPTIONS: readonly OptionSpec[] = [
  { long: 'repair', description: 'Repair headers and metadata of a PV, with a copy of the metadata given by --file.' },
  {
    long: 'repairtype',
    argument: 'pv_header|metadata|label_header',
    check: (value) => REPAIR_TYPES.has(value),
    description: 'Repair only the headers, only the metadata areas, or only the label itself.',
  },
];

/** Whether the command line asks for a repair. */
export function asksForRepair({ options }: CommandContext): boolean {
  return options.has('repair') || options.has('repairtype');
}

/** pvck --repair and pvck --repairtype. */
export async function repairPv(context: CommandContext): Promise<ExitCode> {
  const { options, args, output } = context;
  const [path, extra] = args;
  if (path === undefined || extra !== undefined || (options.has('repair') && !options.has('file'))) {
    output.error('No command with matching syntax recognised.');
    return EXIT.badUsage;
  }
  const labelSector = Number(options.value('labelsector') ?? '1');
  if (!(labelSector < 4)) throw new CommandError('labelsector must be less than 4.', EXIT.badUsage);
  const settings = repairSettings(options.value('settings') ?? '');
  const change = await changeContext(context, options.has('devices') ? [] : [resolve(context.cwd, path)]);
  return withChanges(change, { globalLock: 'write' }, async (changes) => {
    const file = await metadataFile(context, changes);
    if (change.hintsDirectory !== null && !change.test) await dropHints(change.hintsDirectory);
    const device = await (change.open ?? openExclusively)(path);
    try {
      const { identity } = device;
      const complete = await carryOut(options.value('repairtype') ?? 'all', {
        device,
        labelSector,
        settings,
        file,
        test: change.test,
        yes: change.yes > 0,
        deviceWithUuid: (uuid) => Promise.resolve(holderOf(changes.scan, uuid, identity)),
        prompt: (question) => change.prompt(question),
        out: (line) => change.out(line),
        err: (line) => change.err(line),
      });
      return complete ? EXIT.ok : EXIT.failed;
    } finally {
      await device.close();
    }
  });
}

async function carryOut(kind: string, repair: RepairContext): Promise<boolean> {
  if (kind === 'label_header') return repairLabelHeader(repair);
  if (kind === 'metadata') return repairMetadata(repair);
  if (!(await repairPvHeader(repair))) return false;
  return kind === 'pv_header' || repairMetadata(repair);
}

/** The path of another device with that PV uuid. */
function holderOf(scan: Scan, uuid: string, identity: string): string | null {
  const found: (LabelledDevice | null)[] = [
    ...scan.volumeGroups.flatMap((group) => [...group.pvs.map((pv) => pv.found), ...group.outdated]),
    ...scan.orphans.map((pv) => pv.found),
    ...scan.duplicates,
    ...scan.unreadable.flatMap((group) => group.devices),
  ];
  return found.find((pv) => pv?.uuid === uuid && pv.device.identity !== identity)?.device.path ?? null;
}

const NUMBERS = {
  mda_offset: 'mdaOffset',
  mda_size: 'mdaSize',
  mda2_offset: 'mda2Offset',
  mda2_size: 'mda2Size',
  device_size: 'deviceSize',
  data_offset: 'dataOffset',
  mda_num: 'mdaNum',
} as const;
type NumberKey = keyof typeof NUMBERS;

/** Settings of dumps: they say nothing to a repair. */
const DUMP_KEYS: ReadonlySet<string> = new Set(['metadata_offset', 'seqno', 'backup_file']);

/** Reads "key1=val1 key2 = val2". Throws CommandError. */
export function repairSettings(text: string): RepairSettings {
  let settings: RepairSettings = { mdaNum: 0 };
  let rest = text.trimStart();
  while (rest !== '') {
    const [all, key, value] = /^([^=]+?)\s*=\s*(\S+)\s*/.exec(rest) ?? [];
    if (all === undefined || key === undefined || value === undefined) {
      throw new CommandError(`Invalid setting at: ${rest}`);
    }
    settings = withSetting(settings, key, value);
    rest = rest.slice(all.length);
  }
  return settings;
}

function withSetting(settings: RepairSettings, key: string, value: string): RepairSettings {
  if (key === 'pv_uuid') {
    if (isUuid(value)) return { ...settings, pvUuid: formatUuid(parseUuid(value) ?? value) };
    throw new CommandError(['Failed to parse UUID from pv_uuid setting.', `Invalid setting: ${key}`]);
  }
  if (DUMP_KEYS.has(key)) return settings;
  const number = Number(value);
  if (!isNumberKey(key) || !/^\d+$/.test(value) || !Number.isSafeInteger(number)) {
    throw new CommandError(`Invalid setting: ${key}`);
  }
  return { ...settings, [NUMBERS[key]]: number };
}

function isNumberKey(key: string): key is NumberKey {
  return Object.hasOwn(NUMBERS, key);
}

/** The copy of the metadata: text as it was on a disk, or a backup file. Null without --file. */
async function metadataFile(context: CommandContext, { context: change }: Changes): Promise<MetadataFile | null> {
  const name = context.options.value('file');
  if (name === undefined) return null;
  const bytes = readFile(resolve(context.cwd, name), name);
  const isBackup = bytes.subarray(0, 11).toString('latin1') === '# Generated';
  const invalid = 'Invalid raw text metadata in file.';
  if (/^\s\s/.test(bytes.toString('latin1', 0, 2)) && bytes.includes('---')) {
    throw new CommandError([invalid, '(pvck stdout is not valid input, see pvck -f.)']);
  }
  try {
    const metadata = parseMetadataText(bytes, { device: name, offset: 0 });
    if (isBackup) {
      const { generator, uname } = change.writer;
      const time = metadata.header.creationTime ?? change.now();
      return { vg: metadata.vg, text: metadataTextBytes(metadata, { generator, uname, time }) };
    }
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    throw new CommandError(['Invalid metadata file.', error.message], 5, { cause: error });
  }
  return rawFile(bytes, name, change);
}

async function rawFile(bytes: Buffer, name: string, change: Changes['context']): Promise<MetadataFile> {
  const text = bytes.at(-1) === 0 ? bytes : Buffer.concat([bytes, encodeText('\0')]);
  if (!text.subarray(-3).equals(Buffer.from('\n\n\0'))) {
    change.err('WARNING: unexpected final bytes of raw metadata, expected \\n\\n\\0.');
  }
  if (!/^[A-Za-z0-9+_.-]+ \{/.test(text.toString('latin1', 0, 200))) {
    change.err('WARNING: file data does not begin with a VG name and may be invalid.');
    const agreed = change.yes > 0 || (await change.prompt('Write input file data to disk?'));
    if (!agreed) throw new CommandError('Invalid raw text metadata in file.');
  }
  return { text, vg: parseMetadataText(bytes, { device: name, offset: 0 }).vg };
}

function readFile(path: string, name: string): Buffer {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new CommandError(`Cannot open file: ${name}`, 5, { cause: error });
  }
  if (bytes.length === 0) throw new CommandError(`Empty file: ${name}`);
  return bytes;
}
