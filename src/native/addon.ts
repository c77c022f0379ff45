/**
 * The C addon (native/orion.c), typed: advisory locks, peer credentials, reads of what is cached, and space
 * given back without blocking.
 *
 * Invariants
 *  - The addon is loaded at first use, not at import, so that what does not need it (reading, formats) runs without it.
 *  - The system's failures are positive errnos, as results or callback arguments; a TypeError means a wrong argument.
 */
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';

/** Operations of flock(2). */
export const Lock = { shared: 1, exclusive: 2, nonBlocking: 4, unlock: 8 } as const;

/** Modes of fallocate(2), from linux/falloc.h. */
export const Falloc = { keepSize: 0x01, punchHole: 0x02, zeroRange: 0x10 } as const;

/** Who is at the other end of a unix socket, as the kernel knew it when the connection was made. */
export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

/** Receives 0 or a positive errno. */
export type RangeCallback = (errno: number) => void;

/** Receives 0 or a positive errno, and the lengths of data and holes in turn, data first. */
export type DataRangesCallback = (errno: number, lengths: Float64Array) => void;

/** The ring's part of the addon; native/ring.c says what each does. src/block/ring.ts is its only user. */
export interface RingBinding {
  ringOpen(slots: number, callback: () => void): ArrayBuffer | number;
  ringClose(): void;
  ringLook(microseconds: number): void;
  ringHold(on: boolean): void;
  ringAddFile(fd: number): number;
  ringRemoveFile(file: number): number;
  ringPin(buffer: Buffer): number;
  ringUnpin(region: number): number;
}

/** Messages to the kernel; native/netlink.c says what each does. src/native/netlink.ts is its only user. */
export interface NetlinkBinding {
  netlinkRequest(message: Buffer, callback: (result: Buffer | number) => void): void;
  netlinkJoin(group: number): number;
  netlinkReceive(fd: number, buffer: Buffer): number;
}

/** Plain sockets by plain calls; native/stream.c says what each does. src/nbd/direct-stream.ts is its only user. */
export interface StreamBinding {
  streamsOpen(callback: () => void): ArrayBuffer;
  streamAdd(fd: number): number;
  streamWatch(stream: number, what: number): number;
  streamReceive(stream: number, buffer: Buffer, at: number, length: number): number;
  streamSend(stream: number, buffer: Buffer, at: number, length: number, more: boolean): number;
  streamShutdown(stream: number): number;
  streamClose(stream: number): void;
  streamRelease(stream: number): number;
}

/** What O_DIRECT demands, in bytes; both 0 where the file system can't do it. */
export interface DirectAlignment {
  /** Of addresses in memory. */
  readonly memory: number;
  /** Of offsets and lengths. */
  readonly offset: number;
}

/** Sockets; native/sockets.c says what each does. src/native/sockets.ts is its only user. */
export interface SocketBinding {
  socketPair(): readonly [number, number] | number;
  takeStandardStreams(): readonly [number, number] | number;
  vsockListener(cid: number, port: number): { readonly fd: number; readonly port: number } | number;
  vsockPeer(fd: number): { readonly cid: number; readonly port: number } | number;
}

interface Addon extends RingBinding, NetlinkBinding, SocketBinding, StreamBinding {
  flock(fd: number, operation: number): number;
  peerCredentials(fd: number): PeerCredentials | number;
  peerGroups(fd: number): readonly number[] | number;
  readCached(fd: number, buffer: Buffer, at: number, length: number, position: number): number;
  fallocate(fd: number, mode: number, offset: number, length: number, callback: RangeCallback): void;
  blockDiscard(fd: number, offset: number, length: number, callback: RangeCallback): void;
  dataRanges(fd: number, offset: number, length: number, callback: DataRangesCallback): void;
  pageBuffer(bytes: number): Buffer;
  directAlignment(fd: number): DirectAlignment | number;
}

/** The addon is not built, or not for this Node. */
export class AddonError extends Error {
  override readonly name = 'AddonError';
  readonly code = 'ADDON_MISSING';
  readonly path: string;

  constructor(path: string, cause: unknown) {
    super(`${path} cannot be loaded: run \`npm ci\` (or \`sh native/build\`) with a C compiler installed`, { cause });
    this.path = path;
  }
}

const ADDON_PATH = fileURLToPath(new URL('../../build/orion.node', import.meta.url));
let loaded: Addon | null = null;

function addon(): Addon {
  loaded ??= load();
  return loaded;
}

function load(): Addon {
  try {
    const binding: Addon = createRequire(import.meta.url)(ADDON_PATH);
    return binding;
  } catch (error) {
    throw new AddonError(ADDON_PATH, error);
  }
}

/** Loads the addon now, so that its absence shows here and not in the middle of I/O. Throws AddonError. */
export function loadAddon(): void {
  addon();
}

/** flock(2) with bits of Lock; 0 or a positive errno. Blocks unless `nonBlocking` is among them. */
export function flock(fd: number, operation: number): number {
  return addon().flock(fd, operation);
}

/** The credentials of a connected unix socket's peer, or a positive errno. */
export function peerCredentials(fd: number): PeerCredentials | number {
  return addon().peerCredentials(fd);
}

/** The supplementary groups of a connected unix socket's peer, as they were when it connected, or a positive errno. */
export function peerGroups(fd: number): readonly number[] | number {
  return addon().peerGroups(fd);
}

/**
 * Reads into `buffer` what the page cache holds, without waiting for a device (preadv2 with RWF_NOWAIT). Gives the bytes read,
 * fewer than `length` where the cache ends, 0 at the end of the file; or minus an errno: EAGAIN if nothing of it is cached,
 * EOPNOTSUPP where the file system can't tell, ENOSYS without the addon (reading goes on without it).
 */
export function readCached(fd: number, buffer: Buffer, at: number, length: number, position: number): number {
  try {
    return addon().readCached(fd, buffer, at, length, position);
  } catch (error) {
    if (error instanceof AddonError) return -constants.errno.ENOSYS;
    throw error;
  }
}

/** fallocate(2) in libuv's thread pool; `fd` must stay open until `callback`. Offset and length in bytes. */
export function fallocate(fd: number, mode: number, offset: number, length: number, callback: RangeCallback): void {
  addon().fallocate(fd, mode, offset, length, callback);
}

/** The BLKDISCARD ioctl in libuv's thread pool; `fd` must stay open until `callback`. Bytes, in whole logical blocks. */
export function blockDiscard(fd: number, offset: number, length: number, callback: RangeCallback): void {
  addon().blockDiscard(fd, offset, length, callback);
}

/**
 * Where a file has data (SEEK_DATA, SEEK_HOLE), found in libuv's thread pool; `fd` must stay open until `callback`. Bytes. Tells of
 * less than `length` where there is much to tell, or the file ends.
 */
export function dataRanges(fd: number, offset: number, length: number, callback: DataRangesCallback): void {
  addon().dataRanges(fd, offset, length, callback);
}

/** A zeroed Buffer that starts on a page of its own; at most 1 GiB. */
export function pageBuffer(bytes: number): Buffer {
  return addon().pageBuffer(bytes);
}

/** What O_DIRECT demands of an open file; or a positive errno, ENOSYS where kernel or file system don't tell. */
export function directAlignment(fd: number): DirectAlignment | number {
  return addon().directAlignment(fd);
}

/** Throws AddonError. */
export function ringBinding(): RingBinding {
  return addon();
}

/** Throws AddonError. */
export function netlinkBinding(): NetlinkBinding {
  return addon();
}

/** Throws AddonError. */
export function socketBinding(): SocketBinding {
  return addon();
}

/** Throws AddonError. */
export function streamBinding(): StreamBinding {
  return addon();
}
