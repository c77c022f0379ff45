/**
 * The kernel's devices that are attached to this daemon's volumes: they follow sizes and names, and get new connections when
 * theirs are lost: with a worker, with the daemon that was here before, or because the kernel gave one up.
 *
 * Invariants
 *  - Every device that is noted and connected is offered connections when this begins; after that, when the kernel says that
 *    one of its connections has died.
 *  - One that can't be given a connection is tried again, ever more slowly, until it can or is detached.
 *  - When a volume is renamed, its note is, and udev is told.
 *  - Nothing here rejects: what fails is logged, the same failure once.
 */
import { existsSync } from 'node:fs';
import { type DeadLinks, hearDeadLinks } from '../native/netlink.ts';
import {
  announceDevice,
  type AttachedDevice,
  attachedDevices,
  type AttachSystem,
  HOST_SYSTEM,
  lockDevices,
  noteDevice,
  numberOf,
  resizeAttached,
} from './client/attached.ts';
import { reconnectDevice } from './client/kernel-device.ts';
import { reasonOf } from './errors.ts';
import type { Logger } from './log.ts';

const LOOK_MS = 500;
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 10_000;
/** There while the module is loaded, or built in and has parameters. */
const MODULE = '/sys/module/nbd';

export interface AttachedDevicesOptions {
  /** Where this daemon serves, as in --listen. */
  readonly servers: () => readonly string[];
  /** Bytes; null: there is no such volume. */
  readonly sizeOf: (exportName: string) => number | null;
  /** The name of a volume that is served, by "VG-uuid/LV-uuid". */
  readonly nameOf: (volume: string) => string | null;
  readonly log: Logger;
  readonly system?: AttachSystem;
}

/** A device without all of its connections. */
interface Lost {
  pauseMs: number;
  /** When it is tried next. */
  at: number;
  reason: string | null;
}

export class AttachedDevices {
  readonly #options: AttachedDevicesOptions;
  readonly #system: AttachSystem;
  readonly #lost = new Map<string, Lost>();
  #timer: NodeJS.Timeout | null = null;
  #links: DeadLinks | null = null;
  #look: Promise<void> | null = null;
  readonly #closing = new AbortController();
  #complaint: string | null = null;

  constructor(options: AttachedDevicesOptions) {
    this.#options = options;
    this.#system = options.system ?? HOST_SYSTEM;
  }

  /** Begins to look after devices; to be called when volumes are served. */
  start(): void {
    this.#timer = setInterval(() => this.#tick(), LOOK_MS).unref();
    this.#tick();
  }

  /** Ends when the last look has: it waits for no server any more. */
  async close(): Promise<void> {
    this.#closing.abort();
    if (this.#timer !== null) clearInterval(this.#timer);
    await this.#look;
    this.#links?.close();
    this.#links = null;
  }

  /** Volumes have new sizes or names. */
  async follow(): Promise<void> {
    const { servers, sizeOf, log } = this.#options;
    await this.#followNames();
    for (const resized of await resizeAttached({ sizeOf, servers: servers() }, this.#system)) {
      const { kernelName, exportName, sizeBytes, problem } = resized;
      const what = { device: kernelName, lv: exportName, sizeBytes };
      if (problem === null) log.info(what, 'an attached device has its new size');
      else log.warn({ ...what, reason: problem }, 'an attached device cannot be given its new size');
    }
  }

  /** Notes name the volumes as they are called now: connections are made by name. */
  async #followNames(): Promise<void> {
    if ((await this.#renamed()).length === 0) return;
    try {
      await using lock = await lockDevices(this.#system, this.#closing.signal);
      void lock;
      for (const device of await this.#renamed()) {
        await noteDevice(device, this.#system);
        await announceDevice(device.kernelName, this.#system);
        const what = { device: device.kernelName, lv: device.exportName };
        this.#options.log.info(what, 'an attached device has its new name');
      }
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      this.#options.log.warn({ reason: reasonOf(error) }, 'an attached volume cannot be given its new name');
    }
  }

  async #renamed(): Promise<readonly AttachedDevice[]> {
    return (await this.#ours()).flatMap((device) => {
      const exportName = this.#options.nameOf(device.volume) ?? device.exportName;
      return exportName === device.exportName ? [] : [{ ...device, exportName }];
    });
  }

  async #ours(): Promise<readonly AttachedDevice[]> {
    const servers = this.#options.servers();
    return (await attachedDevices(this.#system)).filter(({ server }) => servers.includes(server));
  }

  #tick(): void {
    this.#look ??= this.#reconnect().finally(() => (this.#look = null));
  }

  async #reconnect(): Promise<void> {
    try {
      const dead = await this.#dead();
      if (dead?.size === 0 && this.#lost.size === 0) return;
      await this.#followNames();
      const ours = await this.#ours();
      for (const { kernelName } of ours) {
        if (dead === null || dead.has(numberOf(kernelName))) this.#lost.set(kernelName, { ...NEW_LOSS });
      }
      const here = new Set(ours.map(({ kernelName }) => kernelName));
      for (const name of this.#lost.keys()) if (!here.has(name)) this.#lost.delete(name);
      await Promise.all(ours.map((device) => this.#offer(device)));
    } catch (error) {
      const reason = reasonOf(error);
      if (reason !== this.#complaint) this.#options.log.error({ reason }, 'attached devices cannot be looked after');
      this.#complaint = reason;
    }
  }

  /** Which devices have lost a connection since the last look; null: it may be any. */
  async #dead(): Promise<ReadonlySet<number> | null> {
    if (this.#links !== null) return this.#links.take();
    if (!existsSync(MODULE)) return NONE;
    this.#links = await hearDeadLinks();
    return null;
  }

  async #offer(device: AttachedDevice): Promise<void> {
    const { kernelName, exportName } = device;
    const lost = this.#lost.get(kernelName);
    if (lost === undefined || performance.now() < lost.at || this.#closing.signal.aborted) return;
    const { log } = this.#options;
    const what = { device: kernelName, lv: exportName };
    try {
      await reconnectDevice(device, this.#system, this.#closing.signal);
      if (this.#lost.get(kernelName) === lost) this.#lost.delete(kernelName);
      log.info(what, 'an attached device was offered new connections');
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      const reason = reasonOf(error);
      if (reason !== lost.reason) log.warn({ ...what, reason }, 'an attached device waits for a connection');
      lost.reason = reason;
      lost.at = performance.now() + lost.pauseMs;
      lost.pauseMs = Math.min(lost.pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }
}

const NEW_LOSS: Lost = { pauseMs: FIRST_PAUSE_MS, at: 0, reason: null };
const NONE: ReadonlySet<number> = new Set();
