/** Why an error is raised, and what whoever reads it can do. Sentences without their last full stop, in Markdown. */
export interface Explanation {
  readonly cause: string
  readonly remedy: string
}

/** Errors of one area by their code. */
export type Explanations = Readonly<Record<`ERR_FDB_${string}`, Explanation>>
