/**
 * What BLOCK_STATUS needs besides other commands: a list of extents for each context that is asked about, and the payload by which a
 * client asks about some of its contexts only.
 *
 *     payload   0 effect length u64   8 number of a context u32 each
 *
 * Invariants
 *  - Lists are empty and as long as the request allows when a command gets them, and go back with the command.
 *  - A payload that names no context, one twice, or one that was not selected, is refused.
 */
import { ExtentList } from '../dm/io.ts';
import type { Command } from './command.ts';
import { CommandFlag, MAX_EXTENTS } from './constants.ts';
import type { SelectedContext } from './features.ts';

/** Lists kept for reuse. */
const MAX_SPARE_LISTS = 4;
/** Bytes of the effect length, and of a number. */
const LENGTH_BYTES = 8;
const ID_BYTES = 4;

/** Whether so many bytes can be a payload that names some of `contexts` contexts. */
export function isFilterSize(bytes: number, contexts: number): boolean {
  const ids = (bytes - LENGTH_BYTES) / ID_BYTES;
  return Number.isInteger(ids) && ids >= 1 && ids <= contexts;
}

/** The request's length and its contexts, from its payload of a good size; false if it names others than were selected, or one twice. */
export function applyFilter(command: Command): boolean {
  const { buffer, bufferOffset, payload, contexts } = command;
  command.length = buffer.readUInt32BE(bufferOffset) * 2 ** 32 + buffer.readUInt32BE(bufferOffset + 4);
  const wanted = new Set<number>();
  for (let at = LENGTH_BYTES; at < payload; at += ID_BYTES) wanted.add(buffer.readUInt32BE(bufferOffset + at));
  const found: readonly SelectedContext[] = contexts.filter(({ id }) => wanted.has(id));
  command.contexts = found;
  return found.length === (payload - LENGTH_BYTES) / ID_BYTES;
}

export class StatusLists {
  readonly #spare: ExtentList[] = [];

  /** Gives the command a list for each of its contexts. */
  prepare(command: Command): void {
    const limit = (command.flags & CommandFlag.reqOne) === 0 ? MAX_EXTENTS : 1;
    for (let left = command.contexts.length; left > 0; left--) {
      const list = this.#spare.pop() ?? new ExtentList(MAX_EXTENTS);
      list.clear(limit);
      command.statuses.push(list);
    }
  }

  release({ statuses }: Command): void {
    for (const list of statuses) if (this.#spare.length < MAX_SPARE_LISTS) this.#spare.push(list);
  }
}
