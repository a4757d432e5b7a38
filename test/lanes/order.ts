import { BaseSequencer, type TestSpecification } from 'vitest/node'

/**
 * The exploration, which is one long file of pure work, begins with the end-to-end tests, which mostly wait. Files with a process of
 * their own come together: between two of the others such a file would end the process that those share.
 */
function rank({ moduleId, project }: TestSpecification): number {
  if (moduleId.includes('/test/exploration/')) return 0
  if (project.config.isolate) return 2
  return moduleId.includes('/test/e2e/') ? 1 : 3
}

export class Order extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return (await super.sort(files)).toSorted((a, b) => rank(a) - rank(b))
  }
}
