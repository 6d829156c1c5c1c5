// Owns asking for a cancel: the button, the question in between, and what the API said.
// Used by the build page and the run page while the thing is not finished.
import { useRef, useState } from 'preact/hooks';
import { requestChange } from './api';

interface CancelProps {
  /** What is cancelled, as in `build 12`. */
  what: string;
  /** What it means, shown in the question. */
  consequence: string;
  selfUrl: string;
  isCancelling: boolean;
  onAsked: () => void;
}

export function CancelButton(props: CancelProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [refusal, setRefusal] = useState('');
  const send = async () => {
    const trouble = await requestChange(props.selfUrl, 'cancel');
    setRefusal(trouble === null ? '' : `Not cancelled: ${trouble.detail}`);
    props.onAsked();
  };
  const onClose = () => {
    if (dialog.current?.returnValue === 'cancel') void send();
  };
  const open = () => {
    if (dialog.current === null) return;
    dialog.current.returnValue = '';
    dialog.current.showModal();
  };
  return (
    <>
      <button type="button" class="danger" disabled={props.isCancelling} onClick={open}>
        {props.isCancelling ? 'Cancelling …' : `Cancel ${props.what}`}
      </button>
      {refusal === '' ? null : (
        <span class="refusal" role="alert">
          {refusal}
        </span>
      )}
      <dialog ref={dialog} onClose={onClose} aria-labelledby="cancel-title">
        <form method="dialog">
          <h2 id="cancel-title">Cancel {props.what}?</h2>
          <p>{props.consequence}</p>
          <div class="buttons">
            <button value="keep" class="plain" autofocus>
              Keep it
            </button>
            <button value="cancel" class="danger">
              Cancel {props.what}
            </button>
          </div>
        </form>
      </dialog>
    </>
  );
}
