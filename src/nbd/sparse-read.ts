/**
 * READs of which the map knows that some of the bytes are zeroes: chunks of data with holes between them, laid out in the slot of the
 * reply without moving any data. Headers go where the zeroes are that need not be sent.
 *
 *     slot      | header | data ........ | zeroes ................................ | data ........ | zeroes ....
 *     sent      | DATA   | data ........ |                          | HOLE | DATA   | data ........ | HOLE |
 *
 * Invariants
 *  - The chunks cover the request once, in its order, and the last of them says so.
 *  - A hole has room for the headers that stand in it; a shorter one is sent as data, which it is in the slot, too.
 *  - What the map says is of the table that was read through, so this is done when the READ ends.
 */
import type { Command } from './command.ts';

/** Bytes: more than the headers take, and than what a chunk more costs the client. */
const MIN_HOLE_BYTES = 512;
/** Chunks of one reply; what follows is data. */
const MAX_CHUNKS = 64;

/** Writes headers of chunks into a reply's slot. */
export interface ChunkWriter {
  /** Bytes before the data of a chunk, and of a whole hole. */
  readonly dataHeaderBytes: number;
  readonly holeBytes: number;
  writeData(
    command: Command,
    at: number,
    range: { readonly offset: number; readonly length: number },
    last: boolean,
  ): void;
  writeHole(
    command: Command,
    at: number,
    range: { readonly offset: number; readonly length: number },
    last: boolean,
  ): void;
}

/** See BlockDevice.zeroRun. */
type ZeroRun = (offset: number, length: number) => number;

interface Run {
  readonly offset: number;
  length: number;
  readonly hole: boolean;
}

/** Data and holes of a range in turn. */
function runsOf(zeroRun: ZeroRun, offset: number, length: number): readonly Run[] {
  const runs: Run[] = [];
  const end = offset + length;
  for (let at = offset; at < end;) {
    const known = runs.length < MAX_CHUNKS - 1 ? zeroRun(at, end - at) : at - end;
    const bytes = Math.abs(known);
    const hole = known >= MIN_HOLE_BYTES;
    const last = runs.at(-1);
    if (last !== undefined && last.hole === hole) last.length += bytes;
    else runs.push({ offset: at, length: bytes, hole });
    at += bytes;
  }
  return runs;
}

/**
 * Makes chunks of a READ whose data is in its slot, which begins at `command.slot`: writes their headers, and adds what is to be sent
 * to `command.parts` (start, end, …). Gives the bytes of it; 0: there is no hole worth it, and nothing was done.
 */
export function layOutSparse(command: Command, zeroRun: ZeroRun, writer: ChunkWriter): number {
  const runs = runsOf(zeroRun, command.offset, command.length);
  if (!runs.some(({ hole }) => hole)) return 0;
  const { slot } = command;
  const parts: number[] = [];
  command.parts = parts;
  let bytes = 0;
  const send = (start: number, end: number): void => {
    if (parts.at(-1) === start) parts[parts.length - 1] = end;
    else parts.push(start, end);
    bytes += end - start;
  };
  runs.forEach((run, index) => {
    const last = index === runs.length - 1;
    const start = slot + writer.dataHeaderBytes + (run.offset - command.offset);
    if (!run.hole) {
      writer.writeData(command, start - writer.dataHeaderBytes, run, last);
      send(start - writer.dataHeaderBytes, start + run.length);
      return;
    }
    // Right before the header of the data behind it; the last one right behind the data before it, or where the slot begins.
    const next = start + run.length - writer.dataHeaderBytes - writer.holeBytes;
    const at = last ? (index === 0 ? slot : start) : next;
    writer.writeHole(command, at, run, last);
    send(at, at + writer.holeBytes);
  });
  return bytes;
}
