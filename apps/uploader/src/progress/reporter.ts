/** Where progress goes. `say` is for what happened, in sentences; the rest is read from the view over time. */
export type Reporter = {
  say: (sentence: string) => void;
  /** Leaves the terminal clean; nothing is shown after it. */
  stop: () => void;
};
