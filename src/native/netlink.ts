/**
 * The kernel's NBD client over generic netlink (native/netlink.c carries the bytes): connect a device to sockets, give it new
 * sockets or a new size, disconnect it, and hear which devices have lost a connection.
 *
 *     message     0 length u32  4 type u16  6 flags u16  8 sequence u32  12 port u32  16 command u8  17 version u8  20 attributes
 *     attribute   0 length u16  2 type u16  4 payload, padded to 4 bytes
 *
 * Numbers are those of linux/netlink.h, linux/genetlink.h and linux/nbd-netlink.h, in the order of bytes of the processors that
 * are supported: little-endian.
 *
 * Invariants
 *  - What the kernel answers is read within its bounds; an answer that can't be made out is an error.
 *  - A request is acknowledged by the kernel or throws a NetlinkError with its errno, and its words if it has some.
 */
import { closeSync } from 'node:fs';
import { constants } from 'node:os';
import { getSystemErrorMessage } from 'node:util';
import { netlinkBinding } from './addon.ts';

const HEADER_BYTES = 16;
const GENERIC_HEADER_BYTES = 20;
const ATTRIBUTE_HEADER_BYTES = 4;
const ATTRIBUTE_TYPE_MASK = 0x3fff;
const NESTED = 0x8000;
const ERROR_MESSAGE = 2;
const Flag = { request: 1, acknowledge: 4, capped: 0x100, hasAttributes: 0x200 } as const;
const ERROR_TEXT = 1;

const Control = {
  family: 0x10,
  getFamily: 3,
  familyId: 1,
  familyName: 2,
  groups: 7,
  groupName: 1,
  groupId: 2,
} as const;

const NBD_FAMILY = 'nbd';
const NBD_GROUP = 'nbd_mc_group';
const Command = { connect: 1, disconnect: 2, reconfigure: 3, linkDead: 4 } as const;
const Attribute = {
  index: 1,
  sizeBytes: 2,
  blockSizeBytes: 3,
  timeout: 4,
  serverFlags: 5,
  sockets: 7,
  deadConnectionTimeout: 8,
  backend: 10,
} as const;
const SOCKET_ITEM = 1;
const SOCKET_FD = 1;

/** The kernel refused, or did not understand. */
export class NetlinkError extends Error {
  override readonly name = 'NetlinkError';
  readonly code = 'NETLINK';
  /** Positive. */
  readonly errno: number;

  constructor(errno: number, words: string | null) {
    super(`${getSystemErrorMessage(-errno)}${words === null ? '' : ` (${words})`}`);
    this.errno = errno;
  }
}

/** What a device can be told while it is connected. */
export interface NbdChange {
  /** N of /dev/nbdN. */
  readonly index: number;
  readonly sizeBytes?: number;
  /** File descriptors of connections in the transmission phase; those that the kernel takes are its own from then on. */
  readonly sockets?: readonly number[];
  /** What the device was connected with; the kernel refuses another. */
  readonly backend?: string;
}

export interface NbdConnection extends NbdChange {
  readonly sizeBytes: number;
  readonly sockets: readonly number[];
  readonly blockSizeBytes: number;
  /** Bits of TransmissionFlag. */
  readonly serverFlags: number;
  /** Seconds after which a connection that does not answer a request is given up; 0: never. */
  readonly timeoutSeconds: number;
  /** Seconds that requests wait for a new connection when all are lost. */
  readonly deadConnectionSeconds: number;
}

export interface NetlinkAttribute {
  readonly type: number;
  readonly payload: Buffer;
}

/** One attribute as it stands in a message. */
export function attribute(type: number, payload: Buffer): Buffer {
  const length = ATTRIBUTE_HEADER_BYTES + payload.length;
  const bytes = Buffer.alloc(aligned(length));
  bytes.writeUInt16LE(length, 0);
  bytes.writeUInt16LE(type, 2);
  payload.copy(bytes, ATTRIBUTE_HEADER_BYTES);
  return bytes;
}

/** The attributes that fill `bytes`. Throws a NetlinkError where they don't. */
export function attributesOf(bytes: Buffer): readonly NetlinkAttribute[] {
  const found: NetlinkAttribute[] = [];
  for (let at = 0; at + ATTRIBUTE_HEADER_BYTES <= bytes.length;) {
    const length = bytes.readUInt16LE(at);
    if (length < ATTRIBUTE_HEADER_BYTES || length > bytes.length - at) throw unreadable('an attribute');
    const type = bytes.readUInt16LE(at + 2) & ATTRIBUTE_TYPE_MASK;
    found.push({ type, payload: bytes.subarray(at + ATTRIBUTE_HEADER_BYTES, at + length) });
    at += aligned(length);
  }
  return found;
}

/** A request of a generic family. */
export function message(family: number, command: number, attributes: readonly Buffer[]): Buffer {
  const header = Buffer.alloc(GENERIC_HEADER_BYTES);
  const bytes = Buffer.concat([header, ...attributes]);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt16LE(family, 4);
  bytes.writeUInt16LE(Flag.request | Flag.acknowledge, 6);
  bytes.writeUInt32LE(1, 8);
  bytes.writeUInt8(command, 16);
  bytes.writeUInt8(1, 17);
  return bytes;
}

/** A message of a generic family. */
export interface GenericMessage {
  readonly command: number;
  readonly attributes: readonly NetlinkAttribute[];
}

/** The messages in what the kernel answered. Throws a NetlinkError for an error among them, and for what is none. */
export function messagesOf(bytes: Buffer): readonly GenericMessage[] {
  const found: GenericMessage[] = [];
  for (let at = 0; at + HEADER_BYTES <= bytes.length;) {
    const length = bytes.readUInt32LE(at);
    if (length < HEADER_BYTES || length > bytes.length - at) throw unreadable('a message');
    const one = bytes.subarray(at, at + length);
    if (one.readUInt16LE(4) === ERROR_MESSAGE) refuseError(one);
    else if (one.length >= GENERIC_HEADER_BYTES) {
      found.push({ command: one.readUInt8(16), attributes: attributesOf(one.subarray(GENERIC_HEADER_BYTES)) });
    }
    at += aligned(length);
  }
  return found;
}

/** An error message holds minus an errno (0 is an acknowledgement), the header of what it is about, and perhaps attributes. */
function refuseError(bytes: Buffer): void {
  if (bytes.length < 2 * HEADER_BYTES + 4) throw unreadable('an error');
  const errno = -bytes.readInt32LE(HEADER_BYTES);
  if (errno === 0) return;
  const flags = bytes.readUInt16LE(6);
  const about = (flags & Flag.capped) === 0 ? aligned(bytes.readUInt32LE(HEADER_BYTES + 4)) : HEADER_BYTES;
  const known = (flags & Flag.hasAttributes) === 0 ? [] : attributesOf(bytes.subarray(HEADER_BYTES + 4 + about));
  const words = known.find(({ type }) => type === ERROR_TEXT);
  throw new NetlinkError(errno, words === undefined ? null : textOf(words.payload));
}

/** Connects a device. Throws a NetlinkError, EBUSY where it is connected. Needs CAP_SYS_ADMIN, as all of this. */
export async function connectNbd(connection: NbdConnection): Promise<void> {
  await nbdRequest(Command.connect, [
    ...changeAttributes(connection),
    number64(Attribute.blockSizeBytes, connection.blockSizeBytes),
    number64(Attribute.serverFlags, connection.serverFlags),
    number64(Attribute.timeout, connection.timeoutSeconds),
    number64(Attribute.deadConnectionTimeout, connection.deadConnectionSeconds),
  ]);
}

/**
 * Changes a connected device. Sockets take the places of connections that are dead; more than there are such are let go.
 * Throws a NetlinkError.
 */
export async function reconfigureNbd(change: NbdChange): Promise<void> {
  await nbdRequest(Command.reconfigure, changeAttributes(change));
}

/** Disconnects a device: what is in flight fails, the device goes when nobody has it open. Throws a NetlinkError. */
export async function disconnectNbd(index: number): Promise<void> {
  await nbdRequest(Command.disconnect, [number32(Attribute.index, index)]);
}

/** Hears of devices that have lost a connection. */
export interface DeadLinks {
  /** N of each /dev/nbdN that has lost one since the last time; null: some were missed, it may be any. */
  take(): ReadonlySet<number> | null;
  close(): void;
}

/** Throws a NetlinkError, ENOENT while the module nbd is not loaded. */
export async function hearDeadLinks(): Promise<DeadLinks> {
  const { group } = await nbdFamily();
  if (group === null) throw unreadable(`no group ${NBD_GROUP}`);
  const fd = netlinkBinding().netlinkJoin(group);
  if (fd < 0) throw new NetlinkError(-fd, null);
  const room = Buffer.alloc(16 * 1024);
  return {
    take: () => takeDeadLinks(fd, room),
    close: () => closeSync(fd),
  };
}

function takeDeadLinks(fd: number, room: Buffer): ReadonlySet<number> | null {
  const indexes = new Set<number>();
  for (;;) {
    const count = netlinkBinding().netlinkReceive(fd, room);
    if (count === -constants.errno.EAGAIN) return indexes;
    // The socket's buffer was full meanwhile.
    if (count < 0) return null;
    for (const { command, attributes } of messagesOf(room.subarray(0, count))) {
      const index = attributes.find(({ type }) => type === Attribute.index);
      if (command === Command.linkDead && index?.payload.length === 4) indexes.add(index.payload.readUInt32LE());
    }
  }
}

function changeAttributes({ index, sizeBytes, sockets, backend }: NbdChange): readonly Buffer[] {
  const items = (sockets ?? []).map((fd) => attribute(SOCKET_ITEM | NESTED, number32(SOCKET_FD, fd)));
  return [
    number32(Attribute.index, index),
    ...(sizeBytes === undefined ? [] : [number64(Attribute.sizeBytes, sizeBytes)]),
    ...(backend === undefined ? [] : [string(Attribute.backend, backend)]),
    ...(items.length === 0 ? [] : [attribute(Attribute.sockets | NESTED, Buffer.concat(items))]),
  ];
}

async function nbdRequest(command: number, attributes: readonly Buffer[]): Promise<void> {
  const { id } = await nbdFamily();
  messagesOf(await request(message(id, command, attributes)));
}

/** The numbers that the kernel gave the family and its group. Not kept: a module that is loaded anew has others. */
async function nbdFamily(): Promise<{ readonly id: number; readonly group: number | null }> {
  const asked = message(Control.family, Control.getFamily, [string(Control.familyName, NBD_FAMILY)]);
  for (const { attributes } of messagesOf(await request(asked))) {
    const id = attributes.find(({ type }) => type === Control.familyId)?.payload;
    if (id?.length === 2) return { id: id.readUInt16LE(), group: groupOf(attributes) };
  }
  throw unreadable('no family');
}

function groupOf(attributes: readonly NetlinkAttribute[]): number | null {
  const groups = attributes.find(({ type }) => type === Control.groups);
  for (const { payload } of groups === undefined ? [] : attributesOf(groups.payload)) {
    const facts = new Map(attributesOf(payload).map((each) => [each.type, each.payload]));
    const [name, id] = [facts.get(Control.groupName), facts.get(Control.groupId)];
    if (name !== undefined && textOf(name) === NBD_GROUP && id?.length === 4) return id.readUInt32LE();
  }
  return null;
}

async function request(bytes: Buffer): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  netlinkBinding().netlinkRequest(bytes, (result) => {
    if (typeof result === 'number') reject(new NetlinkError(result, null));
    else resolve(result);
  });
  return promise;
}

function aligned(length: number): number {
  return (length + 3) & ~3;
}

function number32(type: number, value: number): Buffer {
  const payload = Buffer.alloc(4);
  payload.writeUInt32LE(value);
  return attribute(type, payload);
}

function number64(type: number, value: number): Buffer {
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(value % 2 ** 32, 0);
  payload.writeUInt32LE(Math.floor(value / 2 ** 32), 4);
  return attribute(type, payload);
}

function string(type: number, text: string): Buffer {
  return attribute(type, Buffer.from(`${text}\0`));
}

function textOf(payload: Buffer): string {
  return payload.toString('utf8').replace(/\0[^]*$/, '');
}

function unreadable(what: string): NetlinkError {
  return new NetlinkError(constants.errno.EBADMSG, `${what} in the kernel's answer`);
}
