/**
 * pvck: looks at the headers and texts of physical volumes, sound or damaged, and prints or saves them. Repairs, the only thing
 * that writes, are in pvck/repair.ts.
 *
 * Source: pvck(8); output compared with LVM2 2.03.16 on sound PVs and on PVs with one field damaged after another.
 */
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { openRawDevice, type RawDevice } from '../../lvm/raw-device.ts';
import { parseConfig } from '../../ondisk/config-parser.ts';
import { FormatError } from '../../ondisk/errors.ts';
import { MDA_HEADER_BYTES } from '../../ondisk/mda.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, worse } from '../messages.ts';
import { checkArea, checkText, type AreaFindings } from '../pvck/area-check.ts';
import { checkLabel, type AreaLocation, type LabelFindings } from '../pvck/label-check.ts';
import { PvckReport } from '../pvck/report.ts';
import { type SearchSettings, parseSettings } from '../pvck/settings.ts';
import { asksForRepair, PVCK_REPAIR_OPTIONS, repairPv } from '../pvck/repair.ts';
import { findTexts, type FoundText } from '../pvck/text-search.ts';

const DUMPS = ['headers', 'metadata', 'metadata_all', 'metadata_search', 'metadata_area'] as const;
type DumpKind = (typeof DUMPS)[number];
/** LVM2's devices/pv_min_size. */
const LEAST_BYTES = 2 * 1024 * 1024;
const MIB = 1024n * 1024n;
/** Where a first metadata area is when nothing says so. */
const DEFAULT_AREA: AreaLocation = { offset: 4096n, size: 1044480n };

function isDumpKind(text: string): text is DumpKind {
  return DUMPS.some((kind) => kind === text);
}

/** One run over one device. */
class Inspection {
  readonly #context: CommandContext;
  readonly #report: PvckReport;
  readonly #settings: SearchSettings;
  readonly #sector: number;

  constructor(context: CommandContext, device: RawDevice, kind: DumpKind | null, settings: SearchSettings) {
    this.#context = context;
    this.#report = new PvckReport(device, context.output, kind === 'headers');
    this.#settings = settings;
    this.#sector = Number(context.options.value('labelsector') ?? 1);
  }

  async dump(kind: DumpKind): Promise<ExitCode> {
    if (kind === 'metadata_search') return this.#search();
    const label = await checkLabel(this.#report, this.#sector);
    if (label === null) return EXIT.failed;
    if (label.metadataAreas.length === 0) {
      this.#context.output.print('zero metadata copies');
      return EXIT.ok;
    }
    if (kind === 'headers') await this.#headers(label);
    else await this.#chosenArea(label, kind);
    if (!this.#report.bad) return EXIT.ok;
    this.#context.output.error('Found bad header or metadata values.');
    return EXIT.failed;
  }

  /** Without --dump: what is wrong, and what was found. */
  async check(): Promise<ExitCode> {
    const { path } = this.#report.device;
    const label = await checkLabel(this.#report, this.#sector);
    const areas: AreaFindings[] = [];
    for (const location of label?.metadataAreas ?? []) {
      const area = await checkArea(this.#report, location);
      if (area === null) continue;
      areas.push(area);
      await checkText(this.#report, area);
    }
    if (label === null || !label.isLabel) {
      this.#context.output.error(`Could not find LVM label on ${path}`);
      return EXIT.failed;
    }
    this.#context.output.print(`Found label on ${path}, sector ${this.#sector}, type=LVM2 001`);
    for (const { isArea, location } of areas) {
      if (isArea)
        this.#context.output.print(`Found text metadata area: offset=${location.offset}, size=${location.size}`);
    }
    if (!this.#report.bad) return EXIT.ok;
    if (!this.#report.unreadable) this.#context.output.error('Command failed with status code 5.');
    return EXIT.failed;
  }

  async #headers(label: LabelFindings): Promise<void> {
    for (const location of label.metadataAreas) {
      const area = await checkArea(this.#report, location);
      const text = area === null ? null : await checkText(this.#report, area);
      if (text !== null) this.#context.output.print(text.summary);
    }
  }

  /** metadata, metadata_all and metadata_area look at one area: the first, unless another is asked for. */
  async #chosenArea(label: LabelFindings, kind: DumpKind): Promise<void> {
    const location = label.metadataAreas[this.#areaIndex()];
    if (location === undefined) {
      this.#report.bad = true;
      return;
    }
    if (kind === 'metadata_area') {
      await this.#saveArea(location);
      return;
    }
    const area = await checkArea(this.#report, location);
    if (area === null || area.committed === null) return;
    if (kind === 'metadata_all') {
      await this.#listTexts(location);
      return;
    }
    const text = await checkText(this.#report, area);
    if (text === null) return;
    this.#context.output.print(text.summary);
    const end = text.bytes.indexOf(0);
    this.#emit(end < 0 ? text.bytes : text.bytes.subarray(0, end));
  }

  #areaIndex(): number {
    const copies = this.#context.options.value('pvmetadatacopies');
    return this.#settings.areaNumber === 2 || copies === '2' ? 1 : 0;
  }

  /** Prints a text between lines, or saves it. */
  #emit(text: Buffer): void {
    if (this.#context.options.has('file')) {
      this.#save(text);
      return;
    }
    this.#context.output.print('---');
    this.#context.output.printPlain(`${text.toString('utf8')}\n`);
    this.#context.output.print('---');
  }

  #save(bytes: Buffer): void {
    const file = resolve(this.#context.cwd, this.#context.options.value('file') ?? '');
    try {
      writeFileSync(file, bytes, { flag: 'wx', mode: 0o600 });
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      throw new CommandError(EXIT.failed, [`Failed to create file ${file}: ${reason}`]);
    }
  }

  /** LVM2 leaves out the last 512 bytes, and so do we: its own tools read such files. */
  async #saveArea(location: AreaLocation): Promise<void> {
    const bytes = await this.#report.read(location.offset, location.size - BigInt(MDA_HEADER_BYTES));
    if (bytes === null || !this.#context.options.has('file')) this.#report.bad = true;
    else this.#save(bytes);
  }

  async #search(): Promise<ExitCode> {
    const label = await checkLabel(this.#report, this.#sector);
    const location = this.#searchPlace(label);
    this.#context.output.print(`Searching for metadata at offset ${location.offset} size ${location.size}`);
    return (await this.#listTexts(location)) ? EXIT.ok : EXIT.failed;
  }

  #searchPlace(label: LabelFindings | null): AreaLocation {
    const { offset, size } = this.#settings;
    if (offset !== undefined || size !== undefined) {
      return { offset: offset ?? DEFAULT_AREA.offset, size: size ?? DEFAULT_AREA.size };
    }
    const known = label !== null && label.isLabel ? label.metadataAreas[this.#areaIndex()] : undefined;
    if (known !== undefined && known.size > 0n) return known;
    const { output } = this.#context;
    const bytes = BigInt(this.#report.device.sizeBytes);
    if (this.#areaIndex() === 1 && bytes >= 2n * MIB) {
      const second = { offset: bytes - (bytes % MIB) - MIB, size: (bytes % MIB) + MIB };
      output.print(`Using defaults for second mda: offset ${second.offset} size ${second.size}.`);
      output.print('Override defaults with --settings "mda_offset=<bytes> mda_size=<bytes>"');
      return second;
    }
    output.print(`Using common defaults for first mda: offset ${DEFAULT_AREA.offset} size ${DEFAULT_AREA.size}.`);
    output.print('Override defaults with --settings "mda_offset=<bytes> mda_size=<bytes>"');
    if (known !== undefined) {
      output.print(`Ignoring mda1_offset ${known.offset} mda1_size ${known.size} from pv_header.`);
    }
    return DEFAULT_AREA;
  }

  /** Lists (and with --file saves) the texts in an area. False: it can't be read, which is said. */
  async #listTexts(location: AreaLocation): Promise<boolean> {
    const area = await this.#report.read(location.offset, location.size);
    if (area === null) {
      this.#report.check(`failed to read metadata area at offset ${location.offset} size ${location.size}`);
      return false;
    }
    const found = this.#wanted(location, [...findTexts(area)]);
    for (const text of found) this.#listText(location, text);
    if (new Set(found.map((text) => text.vgId)).size > 1) {
      this.#context.output.error('WARNING: metadata from multiple VGs was found.');
    }
    if (this.#context.options.has('file')) this.#save(joined(found));
    return true;
  }

  /** All texts, or the one that the settings name. */
  #wanted(location: AreaLocation, found: readonly FoundText[]): readonly FoundText[] {
    const { seqno, textOffset } = this.#settings;
    if (seqno === undefined && textOffset === undefined) return found;
    const at = (text: FoundText): bigint => location.offset + BigInt(text.offset);
    return found
      .filter((text) => (seqno === undefined || text.seqno === seqno) && (textOffset ?? at(text)) === at(text))
      .slice(0, 1);
  }

  #listText(location: AreaLocation, text: FoundText): void {
    const { output, options } = this.#context;
    const at = location.offset + BigInt(text.offset);
    this.#warn(text, at);
    const checksum = text.checksum.toString(16).padStart(8, '0');
    const { length, vgName, seqno, vgId } = text;
    output.print(`metadata at ${at} length ${length} crc ${checksum} vg ${vgName} seqno ${seqno} id ${vgId}`);
    if (!options.has('verbose')) return;
    if (text.description !== undefined) output.print(text.description);
    if (text.creationTime !== undefined) output.print(`${text.creationTime}\n`);
  }

  #warn(text: FoundText, at: bigint): void {
    const { output } = this.#context;
    try {
      parseConfig(text.bytes, { device: this.#report.device.path, offset: Number(at) });
    } catch (error) {
      if (!(error instanceof FormatError)) throw error;
      output.error(error.message);
      output.error(`WARNING: parse error for metadata at ${at}`);
    }
    if (text.bytes.toString('latin1').endsWith('\n\n')) return;
    output.error(`WARNING: unexpected terminating bytes for metadata at ${at}`);
  }
}

/** The texts of one file, parted by lines of two hyphens. */
function joined(found: readonly FoundText[]): Buffer {
  const parting = Buffer.from('\n--\n');
  return Buffer.concat(found.flatMap((text, index) => (index === 0 ? [text.bytes] : [parting, text.bytes])));
}

async function inspect(context: CommandContext, path: string, kind: DumpKind | null): Promise<ExitCode> {
  const { output, options } = context;
  const settings = parseSettings(options.value('settings'));
  const device = await openRawDevice(path);
  if (device === null) {
    output.error(kind === null ? `Cannot access device ${path}.` : `Cannot access ${path}.`);
    return EXIT.failed;
  }
  try {
    if (device.sizeBytes < LEAST_BYTES) {
      output.error(`Cannot use ${path}: device is too small (pv_min_size).`);
      return EXIT.failed;
    }
    const inspection = new Inspection(context, device, kind, settings);
    return kind === null ? await inspection.check() : await inspection.dump(kind);
  } finally {
    await device.close();
  }
}

async function run(context: CommandContext): Promise<ExitCode> {
  if (asksForRepair(context)) return repairPv(context);
  const { args, options, output } = context;
  const dump = options.value('dump');
  const kind = dump !== undefined && isDumpKind(dump) ? dump : null;
  if (args.length === 0) {
    output.error("No command with matching syntax recognised.  Run 'pvck --help' for more information.");
    return EXIT.badUsage;
  }
  if (kind !== null && args.length > 1) {
    output.error(`Command does not accept argument: ${args[1]}.`);
    return EXIT.badUsage;
  }
  if (kind === null && ['file', 'settings', 'pvmetadatacopies'].some((name) => options.has(name))) {
    output.error('Options --file, --settings and --pvmetadatacopies need --dump.');
    return EXIT.badUsage;
  }
  let worst: ExitCode = EXIT.ok;
  for (const path of args) worst = worse(worst, await inspect(context, resolve(context.cwd, path), kind));
  return worst;
}

export const command: Command = {
  summary: 'Check metadata on physical volumes',
  argumentsUsage: 'PV ...',
  options: [
    ...PVCK_REPAIR_OPTIONS,
    {
      long: 'dump',
      argument: 'headers|metadata|metadata_all|metadata_search|metadata_area',
      check: isDumpKind,
      description:
        'Print (or with --file save) headers, the committed text, every text found, or the whole metadata area.',
    },
    {
      long: 'file',
      short: 'f',
      argument: 'String',
      description: 'Save metadata to this new file instead of printing it; with --repair: the metadata to write.',
    },
    {
      long: 'labelsector',
      argument: 'Number',
      check: (value) => /^[0-3]$/.test(value),
      description: 'Look for the label in this sector (0 to 3) instead of 1.',
    },
    {
      long: 'pvmetadatacopies',
      argument: '0|1|2',
      check: (value) => /^[0-2]$/.test(value),
      description: 'With 2, look at the second metadata area.',
    },
    {
      long: 'settings',
      argument: 'String',
      description:
        'What to believe instead of the headers: "mda_offset=BYTES mda_size=BYTES mda_num=1|2"; which text: "seqno=N" or ' +
        '"metadata_offset=BYTES"; and for repairs also pv_uuid, device_size, data_offset, mda2_offset, mda2_size.',
    },
  ],
  run,
};
