/**
 * Connections for the kernel's nbd devices: this process negotiates them with the daemon and hands them to the kernel, which goes
 * on with them alone.
 *
 * When a connection is lost the kernel keeps what is asked of the device, for as long as it was told, and waits for another
 * (`reconnectDevice`). What was sent on the lost one and not answered it sends again when the block layer's time for a request
 * is over. With one connection and no time limit that time is only when it looks whether the connection is still the
 * same, so it is set low; with several it would take a slow answer for a lost connection, so it is left at the kernel's 30 s.
 *
 * Invariants
 *  - A connection that the kernel did not take is closed.
 *  - A device gets connections only to the volume that it was connected with.
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NetlinkError } from '../../native/netlink.ts';
import { TransmissionFlag } from '../../nbd/constants.ts';
import { type AttachedDevice, type AttachSystem, identityOf, numberOf } from './attached.ts';
import { HandshakeError, negotiate, type NegotiatedConnection } from './handshake.ts';

const HANDSHAKE_MS = 10_000;
const LOOK_AGAIN_MS = 3000;
const KERNELS_OWN_MS = 30_000;

/** What the kernel is asked for. */
export interface ConnectOptions {
  /** Seconds until a connection is given up on which a request gets no answer; null: never. */
  readonly timeoutSeconds: number | null;
  /** Seconds for which requests wait for a new connection when all are lost. */
  readonly reconnectSeconds: number;
  readonly readOnly: boolean;
  readonly blockSize: number;
}

/** Connects a device to its export. Throws a HandshakeError or a NetlinkError. */
export async function connectDevice(
  device: AttachedDevice,
  options: ConnectOptions,
  system: AttachSystem,
): Promise<void> {
  const { kernelName, connections, volume } = device;
  const { timeoutSeconds, reconnectSeconds, readOnly, blockSize } = options;
  const lines = await negotiated(device);
  try {
    const { sizeBytes = 0, flags = 0 } = lines[0] ?? {};
    await system.kernel.connect({
      index: numberOf(kernelName),
      sizeBytes,
      sockets: lines.map(({ fd }) => fd),
      backend: volume,
      blockSizeBytes: blockSize,
      serverFlags: readOnly ? flags | TransmissionFlag.readOnly : flags,
      timeoutSeconds: timeoutSeconds ?? 0,
      deadConnectionSeconds: reconnectSeconds,
    });
  } finally {
    for (const line of lines) line.close();
  }
  if (timeoutSeconds !== null) return;
  const milliseconds = connections === 1 ? LOOK_AGAIN_MS : KERNELS_OWN_MS;
  await writeFile(join(system.sysBlock, kernelName, 'queue/io_timeout'), String(milliseconds));
}

/**
 * Offers a connected device as many new connections as it has: the kernel takes them in place of those that are dead, and the
 * volume's size. An abort gives up waiting for the server. Throws a HandshakeError or a NetlinkError.
 */
export async function reconnectDevice(
  device: AttachedDevice,
  system: AttachSystem,
  signal?: AbortSignal,
): Promise<void> {
  const lines = await negotiated(device, signal);
  try {
    const { sizeBytes = 0 } = lines[0] ?? {};
    const identity = await identityOf(device.kernelName, system);
    await system.kernel.reconfigure({ ...identity, sizeBytes, sockets: lines.map(({ fd }) => fd) });
  } finally {
    for (const line of lines) line.close();
  }
}

async function negotiated(
  { server, exportName, connections }: AttachedDevice,
  signal?: AbortSignal,
): Promise<readonly NegotiatedConnection[]> {
  const target = { server, exportName, timeoutMs: HANDSHAKE_MS, ...(signal === undefined ? {} : { signal }) };
  const outcomes = await Promise.allSettled(Array.from({ length: connections }, () => negotiate(target)));
  const lines = outcomes.flatMap((outcome) => (outcome.status === 'fulfilled' ? [outcome.value] : []));
  const failed = outcomes.find((outcome) => outcome.status === 'rejected');
  if (failed === undefined) return lines;
  for (const line of lines) line.close();
  throw failed.reason;
}

/** Who refused a connection, and why; null where that is not what went wrong. */
export function refusalOf(error: unknown): string | null {
  if (error instanceof HandshakeError) return `the daemon gives no connection to ${error.message}`;
  if (error instanceof NetlinkError) return `the kernel refuses: ${error.message}`;
  return null;
}
