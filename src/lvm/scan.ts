/**
 * Scanning devices for volume groups: opens each one read-only, reads its label and metadata, lets it go, and assembles.
 *
 * Invariants
 *  - Nothing is written, and nothing is held: a device that is in use by others can be scanned.
 *  - At most `concurrency` devices are open at a time; a device that can't be opened or read is a warning, and the others
 *    are unaffected.
 *  - The result depends on the order of `paths`, never on which device answered first.
 */
import type { OpenedDevice } from '../block/device.ts';
import { DeviceError, Errno } from '../block/errors.ts';
import { openBlockDevice } from '../block/open.ts';
import { assemble } from './assemble.ts';
import { describeDevice } from './devices.ts';
import type { InUse } from './duplicates.ts';
import type { Scan, ScannedDevice, ScanWarning } from './model.ts';
import { readDevice, withTexts } from './read-device.ts';
import type { DeviceReading, RawReading } from './read-device.ts';
import { TextStore } from './texts.ts';

export interface ScanOptions {
  /** Devices open at a time. Default 16. */
  readonly concurrency?: number;
  /** Opens a device for reading; the scan closes it. Default: as a file or block device. */
  readonly open?: (path: string) => Promise<OpenedDevice>;
  /** False: nothing is said of devices that are smaller than their PVs (`metadata/check_pv_device_sizes`). */
  readonly checkPvSizes?: boolean;
  /** Pass over devices that can't be opened: nobody named them, and LVM2 does so too. */
  readonly skipUnopenable?: boolean;
  /** What the model says of an open device. Default: what stat and sysfs say. */
  readonly describe?: (device: OpenedDevice) => Promise<ScannedDevice>;
  /** Devices from which this process serves LVs: preferred over copies of them, as LVM2 prefers what an active LV uses. */
  readonly inUse?: InUse;
  /** How long a device may take; longer, it counts as unreadable, and so it does until its last reading has come to its end. */
  readonly patience?: ScanPatience;
  /** Called for each device that is there and could not be read, or has a damaged label; it is in the warnings too. */
  readonly onUnreadable?: (path: string, reason: string, identity: string | null) => void;
}

/** What goes from one scan to the next of devices that don't answer. */
export interface ScanPatience {
  readonly timeoutMs: number;
  /** By path: readings that have not ended. */
  readonly hanging: Map<string, Promise<unknown>>;
}

const DEFAULT_CONCURRENCY = 16;

/** Reads the devices at `paths` (see devices.ts for where these come from) and assembles what they hold. */
export async function scanDevices(paths: readonly string[], options: ScanOptions = {}): Promise<Scan> {
  const system = {
    open: options.open ?? ((path: string): Promise<OpenedDevice> => openBlockDevice(path, { readOnly: true })),
    describe: options.describe ?? describeDevice,
    skipUnopenable: options.skipUnopenable ?? false,
    onUnreadable: options.onUnreadable ?? ((): void => undefined),
  };
  const texts = new TextStore();
  const results: (RawReading | ScanWarning | null)[] = paths.map(() => null);
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let index = next++; index < paths.length; index = next++) {
      const path = paths[index] ?? '';
      const reading = (): Promise<RawReading | ScanWarning | null> => scanOne(path, system, texts);
      const { patience } = options;
      results[index] = await (patience === undefined
        ? reading()
        : inTime(path, reading, patience, system.onUnreadable));
    }
  };
  const workers = Math.min(options.concurrency ?? DEFAULT_CONCURRENCY, paths.length);
  await Promise.all(Array.from({ length: workers }, worker));

  const readings: DeviceReading[] = [];
  const warnings: ScanWarning[] = [];
  const seen = new Set<string>();
  for (const result of results) {
    if (result === null) continue;
    if ('message' in result) {
      warnings.push(result);
      continue;
    }
    if (seen.has(result.device.identity)) continue;
    seen.add(result.device.identity);
    readings.push(withTexts(result, texts));
  }
  const scan = assemble(readings, warnings, options.inUse);
  if (options.checkPvSizes !== false) return scan;
  return { ...scan, warnings: scan.warnings.filter(({ pvSize }) => pvSize !== true) };
}

async function scanOne(
  path: string,
  system: Required<Pick<ScanOptions, 'open' | 'describe' | 'skipUnopenable' | 'onUnreadable'>>,
  texts: TextStore,
): Promise<RawReading | ScanWarning | null> {
  let opened: string | null = null;
  try {
    const device = await system.open(path);
    opened = device.identity;
    try {
      const reading = await readDevice(device, await system.describe(device), texts);
      if (reading.label === null && reading.faults.length > 0)
        system.onUnreadable(path, reading.faults.join('; '), opened);
      return reading;
    } finally {
      await device.close();
    }
  } catch (error) {
    if (!(error instanceof DeviceError)) throw error;
    if (!isGone(error)) system.onUnreadable(path, error.message, opened);
    return opened === null && system.skipUnopenable ? null : { severity: 'error', message: error.message };
  }
}

/** The name leads to nothing, or to a device that the system has lost. */
function isGone({ code, errno }: DeviceError): boolean {
  return code === 'NOT_FOUND' || errno === Errno.ENXIO || errno === Errno.ENODEV;
}

/** The reading of a device; or a warning that it does not answer, while the reading goes on by itself. */
async function inTime(
  path: string,
  read: () => Promise<RawReading | ScanWarning | null>,
  { timeoutMs, hanging }: ScanPatience,
  onUnreadable: (path: string, reason: string, identity: string | null) => void,
): Promise<RawReading | ScanWarning | null> {
  const message = `${path} does not answer`;
  const tooLate = (): ScanWarning => {
    onUnreadable(path, message, null);
    return { severity: 'error', message };
  };
  if (hanging.has(path)) return tooLate();
  const { promise, resolve } = Promise.withResolvers<null>();
  const timer = setTimeout(() => resolve(null), timeoutMs);
  const reading = read().then((value) => ({ value }));
  try {
    const outcome = await Promise.race([reading, promise]);
    if (outcome !== null) return outcome.value;
  } finally {
    clearTimeout(timer);
  }
  const ended = (): void => void hanging.delete(path);
  hanging.set(path, reading.then(ended, ended));
  return tooLate();
}
