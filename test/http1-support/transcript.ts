/** A parser's reading of a stream of bytes, in the form in which two parsers are compared. */
export interface Transcript {
  messages: Message[]
  /** `complete`: the stream ends between messages; `refused`: the parser gave up behind the last message. */
  verdict: 'complete' | 'incomplete' | 'refused'
  /** Why it was refused: our reason, or Node's code. */
  reason?: string
  /** Ours only: the byte of the stream at which it was refused. */
  offset?: number
  /** Ours only: the message whose body is not finished. */
  open?: Message | null
  /** Ours only: where in the stream the last head began. */
  headStart?: number
  /** A connection that stopped being HTTP, or whose end was announced, has no further messages. */
  left?: 'tunnel' | 'closing'
}

export interface Message {
  /** Method and target, or status and reason. */
  start: string
  minor: number
  fields: string[]
  keepAlive: boolean
  tunnel: boolean
  body: string
  trailers: string[]
}

/** One input: a stream of bytes, latin1, and what responses in it answer to. */
export interface Input {
  side: 'request' | 'response'
  text: string
  /** The method that responses answer. */
  method: 'GET' | 'HEAD'
}
