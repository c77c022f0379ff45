/** Exports and directories for tests. */
import type { BlockDevice } from '../../src/block/device.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import type { SelectedContext } from '../../src/nbd/features.ts';
import type { ExportDirectory, ExportRefusal, ExportView, ListedExport, NbdExport } from '../../src/nbd/exports.ts';

/** An export as both phases know it. */
export interface TestExport extends NbdExport {
  readonly description: string;
  readonly preferredBlockSize: number;
  readonly contexts: readonly string[];
}

/** What a client has selected who selected `base:allocation`. */
export const ALLOCATION: readonly SelectedContext[] = [{ id: 1, name: 'base:allocation' }];

export function makeExport(fields: Partial<TestExport> = {}): TestExport {
  const volume: BlockDevice = fields.volume ?? new MemoryDevice({ sizeBytes: 2 ** 20 });
  return {
    name: 'vg/lv',
    description: '1 MiB linear',
    readOnly: false,
    volume,
    canTrim: true,
    preferredBlockSize: 4096,
    contexts: ['base:allocation'],
    statusSource: (context) => (context === 'base:allocation' ? volume : null),
    ...fields,
  };
}

export function listed(export_: TestExport): ListedExport {
  const { name, description, readOnly, canTrim, preferredBlockSize, contexts, volume } = export_;
  return { name, description, readOnly, canTrim, preferredBlockSize, contexts, sizeBytes: volume.limits.sizeBytes };
}

export class TestDirectory implements ExportDirectory, ExportView {
  exports: TestExport[];
  /** Connections by export name. */
  readonly open: Map<string, number> = new Map();

  constructor(exports: readonly TestExport[]) {
    this.exports = [...exports];
  }

  viewFor(): ExportView {
    return this;
  }

  list(): readonly ListedExport[] {
    return this.exports.map(listed);
  }

  find(name: string): ListedExport | null {
    const found = this.export(name);
    return found === null ? null : listed(found);
  }

  export(name: string): TestExport | null {
    return this.exports.find((candidate) => candidate.name === name) ?? null;
  }

  explain(name: string): ExportRefusal {
    return { kind: 'unknown', text: name === '' ? 'there is no default export' : `there is no export "${name}"` };
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
