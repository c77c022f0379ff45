/** A set of volumes over workers that only remember what they were asked, and wishes for it. */
import assert from 'node:assert/strict';
import { Socket } from 'node:net';
import { pino } from 'pino';
import type { Logger } from '../../src/daemon/log.ts';
import type { DesiredVolume } from '../../src/daemon/served-volume.ts';
import { VolumeSet } from '../../src/daemon/volumes.ts';
import type { DeviceSpec, WorkerHost } from '../../src/daemon/worker/host.ts';
import { WorkerPool } from '../../src/daemon/worker/pool.ts';
import type { LiveProblem } from '../../src/lvm/live.ts';
import { describeExport } from '../../src/nbd/exports.ts';
import { PLAIN } from '../../src/nbd/features.ts';
import { type FakeRules, FakeWorker, noRules } from './fake-worker.ts';

export const LOG: Logger = pino({ level: 'silent' });
const DEVICE: DeviceSpec = { path: '/d', identity: 'file:1:1', generation: 1, readOnly: false, sizeBytes: 2 ** 30 };

interface Wish {
  readonly readOnly?: boolean;
  readonly sectors?: number;
  readonly shareKey?: string;
  readonly name?: string;
  readonly reason?: string;
  readonly vg?: string;
  /** It is an origin of these. */
  readonly snapshots?: readonly string[];
}

export function wished(id: string, wish: Wish = {}): DesiredVolume {
  const { sectors = 100, shareKey = null, vg = 'vg', readOnly = false } = wish;
  const volume = { id: `${vg} ${id}`, name: wish.name ?? `${vg}/${id}`, description: '', contexts: [] };
  if (wish.reason !== undefined) return { ...volume, plan: { active: false, reason: wish.reason } };
  const own = [{ start: 0, length: sectors, target: 'linear', params: { device: '/d', offset: 0 } }];
  const snapshots = wish.snapshots?.map((snapshot) => `${vg} ${snapshot}`);
  const params = { origin: { name: 'real', table: own }, originId: volume.id, snapshots };
  const table = snapshots === undefined ? own : [{ start: 0, length: sectors, target: 'snapshot-origin', params }];
  const plan = {
    active: true as const,
    table,
    devices: ['/d'],
    readOnly,
    disks: new Map<string, string>(),
    key: `${sectors}${readOnly ? ' ro' : ''}${snapshots?.join() ?? ''}`,
    shareKey,
  };
  return { ...volume, plan };
}

export class Bench {
  readonly rules: FakeRules = noRules();
  readonly hosts: FakeWorker[] = [];
  readonly volumes: VolumeSet;
  readonly pool: WorkerPool;

  constructor(workers: number) {
    this.pool = new WorkerPool({
      count: workers,
      start: (index, events) => {
        const host = new FakeWorker(index, this.rules, events);
        this.hosts[index] = host;
        return Promise.resolve<WorkerHost>(host);
      },
      restore: (slot, host) => this.volumes.restore(slot, host),
      lost: (slot) => this.volumes.lost(slot),
      connectionClosed: (connection) => this.volumes.clients.closed(connection),
      client: (request, handle) => this.volumes.clients.arrive(request, handle).catch(() => undefined),
      log: LOG,
    });
    this.volumes = new VolumeSet({ log: LOG, slots: () => this.pool.slots });
  }

  static async open(workers: number): Promise<Bench> {
    const bench = new Bench(workers);
    await bench.pool.open();
    return bench;
  }

  apply(desired: readonly DesiredVolume[]): Promise<readonly LiveProblem[]> {
    return this.volumes.apply(desired, (path) => (path === '/d' ? DEVICE : undefined));
  }

  /** What workers were asked since the last call. */
  asked(): readonly string[] {
    return this.rules.log.splice(0);
  }

  states(): readonly Record<string, string>[] {
    return this.hosts.map((host) => host.state());
  }

  /** A client that asks for a volume, and what becomes of it. */
  client(connection: number, name: string): { readonly done: Promise<unknown>; readonly abort: AbortController } {
    const view = this.volumes.clients.viewFor();
    const found = view.find(name);
    assert(found !== null);
    const negotiated = {
      exportName: name,
      option: 7 as const,
      noZeroes: true,
      infoTypes: [],
      info: describeExport(found),
      features: PLAIN,
      leftover: Buffer.alloc(0),
    };
    const abort = new AbortController();
    const client = { kind: 'unknown' as const };
    const socket = new Socket();
    const handover = { id: connection, peer: '', client, negotiated, socket, signal: abort.signal };
    return { done: this.volumes.clients.adopt(handover, view), abort };
  }
}
