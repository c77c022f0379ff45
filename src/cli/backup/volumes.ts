/**
 * The volumes that backup and restore work on: as the running daemon serves them, over NBD; or, where none does, opened by the command
 * itself.
 *
 * Invariants
 *  - A volume that the daemon serves is used through it, so that clients may go on.
 *  - `close` settles when everything written is durable, or rejects.
 */
import { CONTEXTS, NbdClient } from '../../daemon/client/nbd-client.ts';
import { findControlSocket } from '../../daemon/client/socket-path.ts';
import type { Changes } from '../../lvm/changes.ts';
import { withChanges } from '../../lvm/command.ts';
import { openDirectly, type Stretch } from '../../lvm/direct-volumes.ts';
import { changeContext } from '../change.ts';
import type { CommandContext } from '../command.ts';
import { CommandError, EXIT } from '../messages.ts';
import { ask, runningDaemon } from '../running-daemon.ts';

const CONNECT_MS = 10_000;
/** What one question about a range may cover: an answer's lengths have 32 bits. */
const MAX_QUESTION_BYTES = 2 ** 31;
const ZERO_FLAG = 2;

export interface WorkVolume {
  /** "VG/LV" */
  readonly name: string;
  /** "VG-uuid/LV-uuid" */
  readonly id: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Connections of others. */
  readonly clients: number;
  read(offset: number, length: number): Promise<Buffer>;
  write(offset: number, bytes: Buffer): Promise<void>;
  writeZeroes(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  /** What of a range is known to be zeroes; or of the beginning of it. */
  zeroes(offset: number, length: number): Promise<readonly Stretch[]>;
  /** What of a range may differ from the base; or of the beginning of it. */
  changes(offset: number, length: number): Promise<readonly Stretch[]>;
}

export interface Wanted {
  readonly vgName: string;
  readonly lvName: string;
  /** A snapshot of the same VG, to compare with; null: none. */
  readonly baseName: string | null;
  readonly writable: boolean;
}

export interface WorkSet {
  readonly volume: WorkVolume;
  readonly base: WorkVolume | null;
}

/** Runs `body` on the volumes. Throws CommandError where they can't be had. */
export async function withVolumes<Result>(
  context: CommandContext,
  wanted: Wanted,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const served = await servedBy(context, wanted);
  return served === null ? directly(context, wanted, body) : overNbd(served, wanted, body);
}

/** The parts of `GET /v1/status` that matter here. */
interface Status {
  readonly listening: readonly string[];
  readonly exports: readonly ServedExport[];
}

interface ServedExport {
  readonly name: string;
  readonly id: string;
  readonly state: string;
  readonly clients?: number;
}

interface Served {
  readonly server: string;
  readonly exports: ReadonlyMap<string, ServedExport>;
}

/** Null: no daemon runs, or none that has the volume. */
async function servedBy(context: CommandContext, { vgName, lvName }: Wanted): Promise<Served | null> {
  const { env, cwd, uid, toml } = context;
  if (findControlSocket({ env, cwd, uid, config: toml?.config ?? null }) === null) return null;
  const status = (await ask(await runningDaemon(context), '/v1/status')) as Status;
  const active = status.exports.filter(({ state }) => state === 'active');
  const exports = new Map(active.map((each) => [each.name, each]));
  if (!exports.has(`${vgName}/${lvName}`)) return null;
  const server = status.listening.find((address) => address.startsWith('unix:')) ?? status.listening[0];
  if (server === undefined) throw failed('The daemon listens nowhere for NBD clients.');
  return { server, exports };
}

async function overNbd<Result>(
  { server, exports }: Served,
  { vgName, lvName, baseName }: Wanted,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const open = async (name: string, contexts: readonly string[]): Promise<ServedVolume> => {
    const found = exports.get(`${vgName}/${name}`);
    if (found === undefined) throw failed(`The daemon does not serve logical volume ${vgName}/${name}.`);
    const exportName = found.name;
    return new ServedVolume(
      found,
      await NbdClient.connect({ server, exportName, contexts, timeoutMs: CONNECT_MS }),
      contexts,
    );
  };
  const changed = baseName === null ? [] : [`${CONTEXTS.changed}${baseName}`];
  const volume = await open(lvName, [CONTEXTS.allocation, ...changed]);
  try {
    if (baseName !== null && !volume.knowsChanges) throw noBase(vgName, lvName, baseName);
    const base = baseName === null ? null : await open(baseName, []);
    try {
      return await body({ volume, base });
    } finally {
      await base?.close();
    }
  } finally {
    await volume.close();
  }
}

class ServedVolume implements WorkVolume {
  readonly name: string;
  readonly id: string;
  readonly clients: number;
  readonly #client: NbdClient;
  readonly #contexts: readonly string[];

  constructor({ name, id, clients = 0 }: ServedExport, client: NbdClient, contexts: readonly string[]) {
    this.name = name;
    this.id = id.replace(' ', '/');
    this.clients = clients;
    this.#client = client;
    this.#contexts = contexts;
  }

  get sizeBytes(): number {
    return this.#client.sizeBytes;
  }

  get readOnly(): boolean {
    return this.#client.readOnly;
  }

  get knowsChanges(): boolean {
    const [, changed] = this.#contexts;
    return changed !== undefined && this.#client.contexts.has(changed);
  }

  read(offset: number, length: number): Promise<Buffer> {
    return this.#client.read(offset, length);
  }

  write(offset: number, bytes: Buffer): Promise<void> {
    return this.#client.write(offset, bytes);
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#client.writeZeroes(offset, length);
  }

  flush(): Promise<void> {
    return this.#client.flush();
  }

  zeroes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#status(this.#contexts[0], offset, length, ZERO_FLAG);
  }

  changes(offset: number, length: number): Promise<readonly Stretch[]> {
    return this.#status(this.#contexts[1], offset, length, 1);
  }

  close(): Promise<void> {
    return this.#client.close();
  }

  async #status(context: string | undefined, offset: number, length: number, bit: number): Promise<readonly Stretch[]> {
    // A server without it: nothing is known.
    if (context === undefined || !this.#client.contexts.has(context)) return [{ length, is: false }];
    const extents = await this.#client.status(context, offset, Math.min(length, MAX_QUESTION_BYTES));
    return clipped(
      extents.map((extent) => ({ length: extent.length, is: (extent.flags & bit) !== 0 })),
      length,
    );
  }
}

/** Without what a server told beyond the question. */
function clipped(stretches: readonly Stretch[], length: number): readonly Stretch[] {
  const inside: Stretch[] = [];
  let left = length;
  for (const stretch of stretches) {
    const taken = Math.min(stretch.length, left);
    if (taken > 0) inside.push({ ...stretch, length: taken });
    left -= taken;
  }
  return inside;
}

async function directly<Result>(
  context: CommandContext,
  { vgName, lvName, baseName, writable }: Wanted,
  body: (set: WorkSet) => Promise<Result>,
): Promise<Result> {
  const change = await changeContext(context);
  const mode = writable ? 'write' : 'read';
  return withChanges(change, { vgs: [{ name: vgName, mode }] }, async (changes: Changes) => {
    const group = await changes.volumeGroup({ vgName, mode });
    const opened = await openDirectly(group, lvName, { host: change.host, readOnly: !writable });
    let result: Result;
    try {
      const base = baseName === null ? undefined : opened.volumes.get(baseName);
      if (baseName !== null && (base === undefined || baseName === lvName)) throw noBase(vgName, lvName, baseName);
      opened.own.compareWith(base ?? null);
      result = await body({ volume: opened.own, base: base ?? null });
    } catch (error) {
      // What went wrong first is what counts.
      await Promise.allSettled([opened.close()]);
      throw error;
    }
    await opened.close();
    return result;
  });
}

function noBase(vgName: string, lvName: string, baseName: string): CommandError {
  return failed(`${vgName}/${baseName} is no snapshot with which ${vgName}/${lvName} can be compared.`);
}

function failed(message: string): CommandError {
  return new CommandError(EXIT.failed, [message]);
}
