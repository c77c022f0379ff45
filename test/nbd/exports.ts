/** Exports and directories for tests. */
import type { BlockDevice } from '../../src/block/device.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import type { ExportDirectory, NbdExport } from '../../src/nbd/exports.ts';

export function makeExport(fields: Partial<NbdExport> = {}): NbdExport {
  return {
    name: 'vg/lv',
    description: '1 MiB linear',
    readOnly: false,
    volume: new MemoryDevice({ sizeBytes: 2 ** 20 }),
    canTrim: true,
    preferredBlockSize: 4096,
    ...fields,
  };
}

export class TestDirectory implements ExportDirectory {
  exports: NbdExport[];
  /** Connections by export name. */
  readonly open: Map<string, number> = new Map();

  constructor(exports: readonly NbdExport[]) {
    this.exports = [...exports];
  }

  list(): readonly NbdExport[] {
    return this.exports;
  }

  find(name: string): NbdExport | null {
    return this.exports.find((candidate) => candidate.name === name) ?? null;
  }

  explain(name: string): string {
    return name === '' ? 'there is no default export' : `there is no export "${name}"`;
  }

  opened(export_: NbdExport): void {
    this.open.set(export_.name, (this.open.get(export_.name) ?? 0) + 1);
  }

  closed(export_: NbdExport): void {
    this.open.set(export_.name, (this.open.get(export_.name) ?? 0) - 1);
  }
}

/** A device whose size may change, as a volume's does when another table is loaded. */
export function resizable(device: BlockDevice): BlockDevice & { sizeBytes: number } {
  return {
    name: device.name,
    sizeBytes: device.limits.sizeBytes,
    get limits() {
      return { ...device.limits, sizeBytes: this.sizeBytes };
    },
    submit: (request) => device.submit(request),
    close: () => device.close(),
  };
}
