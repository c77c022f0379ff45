/**
 * How this thread's clients are read and written: by plain calls where the addon is there, else by Node's streams.
 *
 * Invariant: there is one set of direct streams in a thread.
 */
import { AddonError, streamBinding } from '../native/addon.ts';
import { openNodeStream, type StreamOpener } from '../nbd/byte-stream.ts';
import { directStreams } from '../nbd/direct-stream.ts';

let shared: StreamOpener | null = null;

export function clientStreams(): StreamOpener {
  shared ??= makeOpener();
  return shared;
}

function makeOpener(): StreamOpener {
  try {
    return directStreams(streamBinding());
  } catch (error) {
    if (error instanceof AddonError) return openNodeStream;
    throw error;
  }
}
