/**
 * Noticing that devices appear, vanish, or are other ones than before, and having the daemon scan again: by inotify on the
 * directories where the devices of `devices` are or could be (/dev, if it names none), and at an interval.
 *
 *     armed ── event ──> disarmed for a moment ──> armed, and looked what there is ── something else? ──> rescan
 *
 * inotify also tells every write to a device or image, which is of no interest and can be very many. So an event only means
 * "look soon": nothing is watched until then, and after a look that found nothing new the next one takes its time.
 *
 * Invariants
 *  - What changed while nothing was watched is found by the look, which comes after the watching has begun again.
 *  - A rescan that fails is logged; the next change, or the interval, tries again.
 *  - However often a rescan is asked for while one is slow, one follows it. Rescans do not overlap, unless one takes longer than PATIENCE_MS: a volume whose device hangs may be slow to follow.
 *  - No rescan begins after `close` has resolved; one that is under way is not waited for.
 */
import { type BigIntStats, type FSWatcher, watch } from 'node:fs';
import { glob, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { deviceNumbers } from '../block/probe.ts';
import { listDevices } from '../lvm/devices.ts';
import { reasonOf } from './errors.ts';
import { Interval } from './interval.ts';
import type { Logger } from './log.ts';

export interface HotPlugSettings {
  /** As `devices` of the configuration: paths, directories, globs; none: every block device. */
  readonly devices: readonly string[];
  /** Between rescans for which there is no other reason; 0: none. */
  readonly rescanIntervalMs: number;
}

export interface HotPlugOptions {
  readonly settings: HotPlugSettings;
  /** Scans, and makes what is served fit. `reason` is for people. */
  readonly rescan: (reason: string) => Promise<void>;
  /** Whether the device of this identity is the daemon's own: what is written to it is no news. */
  readonly isHeld: (identity: string) => boolean;
  readonly log: Logger;
  /** From an event to the look. Default 250 ms. */
  readonly quietMs?: number;
}

const QUIET_MS = 250;
/** The longest rest between looks that find nothing new. */
const MAX_QUIET_MS = 4000;
/** How long a rescan is waited for before another one may begin. */
const PATIENCE_MS = 30_000;
/** Events that are of no interest by themselves, but together cost more than a look. */
const MAX_PASSED_OVER = 256;

/** A device as a look sees it. */
interface Seen {
  readonly identity: string;
  readonly size: string;
  /** Of files: when they were last written. */
  readonly written: string;
}

export class HotPlug {
  readonly #options: HotPlugOptions;
  readonly #quietMs: number;
  #settings: HotPlugSettings;
  #watchers: FSWatcher[] = [];
  #seen: ReadonlyMap<string, Seen> = new Map();
  #restMs: number;
  #timer: NodeJS.Timeout | null = null;
  #interval: Interval | null = null;
  /** A rescan that was asked for has not begun. */
  #requested = false;
  #closed = false;
  readonly #closing = Promise.withResolvers<void>();
  #passedOver = 0;
  #watchFailed = false;
  /** Looks and rescans, one after the other. */
  #turn: Promise<void> = Promise.resolve();

  constructor(options: HotPlugOptions) {
    this.#options = options;
    this.#settings = options.settings;
    this.#quietMs = options.quietMs ?? QUIET_MS;
    this.#restMs = this.#quietMs;
  }

  /** Begins to watch. The caller scans afterwards: what is there now is no news. */
  start(): Promise<void> {
    return this.#enqueue(async () => {
      this.#startInterval();
      await this.#arm();
      this.#seen = await look(this.#settings.devices);
    });
  }

  /** Watches what other settings name. The caller scans afterwards. */
  configure(settings: HotPlugSettings): Promise<void> {
    this.#settings = settings;
    this.#disarm();
    return this.start();
  }

  /** Scans soon, for a reason that was found elsewhere: a device that fails, say. Asked for again before it has begun, that is the one. */
  request(reason: string): void {
    if (this.#requested) return;
    this.#requested = true;
    void this.#enqueue(() => {
      this.#requested = false;
      return this.#rescan(reason);
    });
  }

  /** Ends the watching. */
  close(): Promise<void> {
    this.#closed = true;
    this.#closing.resolve();
    this.#disarm();
    this.#interval?.stop();
    return this.#turn;
  }

  #enqueue(work: () => Promise<void>): Promise<void> {
    this.#turn = this.#turn.then(async () => {
      if (!this.#closed) await work();
    });
    return this.#turn;
  }

  #startInterval(): void {
    this.#interval?.stop();
    const { rescanIntervalMs } = this.#settings;
    this.#interval =
      rescanIntervalMs === 0 ? null : new Interval(rescanIntervalMs, () => this.request('rescan_interval'));
  }

  #disarm(): void {
    for (const watcher of this.#watchers) watcher.close();
    this.#watchers = [];
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  async #arm(): Promise<void> {
    this.#disarm();
    const places = await placesOf(this.#settings.devices);
    if (this.#closed) return;
    this.#passedOver = 0;
    let failed = false;
    for (const [directory, place] of places) if (!this.#watch(directory, place)) failed = true;
    this.#watchFailed = failed;
    // Without inotify (all of its watches are in use) looking from time to time has to do.
    if (failed) this.#lookIn(MAX_QUIET_MS);
  }

  #watch(directory: string, place: Place): boolean {
    try {
      const watcher = watch(directory, { persistent: false }, (event, name) => {
        if (place.names !== null && name !== null && !place.names.has(name)) this.#passOver();
        else if (place.onlyNames && event === 'change') this.#passOver();
        else this.#noticed();
      });
      watcher.on('error', () => this.#noticed());
      this.#watchers.push(watcher);
      return true;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // It went away since it was looked for: its parent's event, or the next look, brings it back.
      if (code === 'ENOENT') return false;
      if (!this.#watchFailed) {
        this.#options.log.warn({ directory, reason: reasonOf(error) }, 'cannot be watched: looking from time to time');
      }
      return false;
    }
  }

  #passOver(): void {
    if (++this.#passedOver > MAX_PASSED_OVER) this.#noticed();
  }

  #noticed(): void {
    if (this.#closed) return;
    this.#disarm();
    this.#lookIn(this.#restMs);
  }

  #lookIn(milliseconds: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#enqueue(() => this.#look()), milliseconds).unref();
  }

  async #look(): Promise<void> {
    await this.#arm();
    const now = await look(this.#settings.devices);
    const news = differences(this.#seen, now, this.#options.isHeld);
    this.#seen = now;
    if (news.length === 0) {
      this.#restMs = Math.min(this.#restMs * 2, Math.max(MAX_QUIET_MS, this.#quietMs));
      return;
    }
    this.#restMs = this.#quietMs;
    await this.#rescan(summary(news));
  }

  async #rescan(reason: string): Promise<void> {
    this.#options.log.debug({ reason }, 'scanning devices again');
    const patience = Promise.withResolvers<void>();
    const timer = setTimeout(patience.resolve, PATIENCE_MS);
    await Promise.race([this.#rescanned(reason), patience.promise, this.#closing.promise]);
    clearTimeout(timer);
  }

  async #rescanned(reason: string): Promise<void> {
    try {
      await this.#options.rescan(reason);
    } catch (err) {
      this.#options.log.error({ err, reason }, 'devices could not be scanned again: what is served goes on');
    }
  }
}

/** What there is now, by path. What can't be looked at is not there. */
async function look(specs: readonly string[]): Promise<ReadonlyMap<string, Seen>> {
  const paths = await listDevices(specs, { onProblem: () => undefined });
  const seen = new Map<string, Seen>();
  for (const path of paths) {
    const stats = await statOrNull(path);
    if (stats !== null) seen.set(path, stats.isBlockDevice() ? await blockDevice(stats) : file(stats));
  }
  return seen;
}

function file({ dev, ino, size, mtimeNs }: BigIntStats): Seen {
  return { identity: `file:${dev}:${ino}`, size: String(size), written: String(mtimeNs) };
}

async function blockDevice({ rdev, ino }: BigIntStats): Promise<Seen> {
  const { major, minor } = deviceNumbers(rdev);
  const size = await readFile(`/sys/dev/block/${major}:${minor}/size`, 'utf8').catch(() => '');
  // A node that was made anew may be another disk with the same numbers.
  return { identity: `block:${major}:${minor}`, size: size.trim(), written: String(ino) };
}

type News = readonly [
  path: string,
  what: 'appeared' | 'vanished' | 'was replaced' | 'has another size' | 'was written',
];

function differences(
  before: ReadonlyMap<string, Seen>,
  now: ReadonlyMap<string, Seen>,
  isHeld: (identity: string) => boolean,
): readonly News[] {
  const news: News[] = [];
  for (const path of before.keys()) if (!now.has(path)) news.push([path, 'vanished']);
  for (const [path, seen] of now) {
    const old = before.get(path);
    if (old === undefined) news.push([path, 'appeared']);
    else if (old.identity !== seen.identity) news.push([path, 'was replaced']);
    else if (old.size !== seen.size) news.push([path, 'has another size']);
    else if (old.written !== seen.written && !isHeld(seen.identity)) news.push([path, 'was written']);
  }
  return news;
}

function summary(news: readonly News[]): string {
  const told = news.slice(0, 3).map(([path, what]) => `${path} ${what}`);
  return news.length > told.length ? `${told.join(', ')}, and ${news.length - told.length} more` : told.join(', ');
}

/** What matters in a directory. */
interface Place {
  /** Null: every name. */
  readonly names: Set<string> | null;
  /** Only that names come and go: in /dev every write to a device, even to /dev/null, is a change. */
  readonly onlyNames: boolean;
}

/** The directories in which devices of these specs are, or could appear. Those that are missing have the nearest one that isn't. */
async function placesOf(specs: readonly string[]): Promise<ReadonlyMap<string, Place>> {
  const places = new Map<string, Place>();
  const add = async (wanted: string, name: string | null): Promise<void> => {
    const { directory, missing } = await nearest(wanted);
    const names = missing ?? name;
    const known = places.get(directory);
    const all = names === null || known?.names === null;
    const set = all ? null : new Set([...(known?.names ?? []), names]);
    places.set(directory, { names: set, onlyNames: /^\/dev(\/|$)/.test(directory) });
  };
  if (specs.length === 0) {
    for (const directory of ['/dev', '/dev/mapper']) await add(directory, null);
  }
  // What udev notes of each device it writes anew at every event of the kernel: a new size, a medium that came.
  if (specs.length === 0 || specs.some((spec) => spec.startsWith('/dev/'))) await add('/run/udev/data', null);
  for (const spec of specs) {
    const stats = await statOrNull(spec);
    if (stats === null && /[*?[{]/.test(spec)) {
      for (const directory of await globDirectories(spec)) await add(directory, null);
      continue;
    }
    await add(dirname(spec), basename(spec));
    if (stats?.isDirectory() === true) await add(spec, null);
    const target = await realpath(spec).catch(() => spec);
    if (target !== spec) await add(dirname(target), basename(target));
  }
  return places;
}

/** `wanted`, or the nearest directory above it and what is missing there. */
async function nearest(wanted: string): Promise<{ readonly directory: string; readonly missing: string | null }> {
  let missing: string | null = null;
  for (let directory = wanted; ; directory = dirname(directory)) {
    if ((await statOrNull(directory))?.isDirectory() === true || directory === dirname(directory)) {
      return { directory, missing };
    }
    missing = basename(directory);
  }
}

/** The directories that the parts of a pattern lead to: `a/X/b` with a pattern as X leads to a, and to each a/X. */
async function globDirectories(pattern: string): Promise<readonly string[]> {
  const parts = pattern.split('/');
  const first = parts.findIndex((part) => /[*?[{]/.test(part));
  const directories = [parts.slice(0, first).join('/') || '/'];
  for (let count = first + 1; count < parts.length; count++) {
    const matches = await Array.fromAsync(glob(parts.slice(0, count).join('/')));
    for (const match of matches) if ((await statOrNull(match))?.isDirectory() === true) directories.push(match);
  }
  return directories;
}

async function statOrNull(path: string): Promise<BigIntStats | null> {
  try {
    return await stat(path, { bigint: true });
  } catch {
    return null;
  }
}
