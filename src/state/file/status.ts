/** What `status` shows of the state file. */
export interface StateFileStatus {
  readonly path: string
  /** False: what this process writes does not reach the file now. It is tried again. */
  readonly ok: boolean
  /** This process is the one that writes it. */
  readonly writing: boolean
  readonly lastError: { readonly code: string; readonly message: string; readonly at: string } | null
  /** Bytes of the log that are not in the file. */
  readonly behindBytes: number
  /** The last change that is in the file, and the last one that the disk has. */
  readonly sequence: number
  readonly syncedSequence: number
  readonly bytes: number
}
