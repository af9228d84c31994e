;;; What a user does with diffcoder.el, step by step; what the buffer says then is printed. Run by test_emacs.py.
(setq make-backup-files nil create-lockfiles nil eglot-sync-connect 30 eglot-confirm-server-edits nil
      eglot-workspace-configuration '(:diffcoder (:model "answering" :inline (:debounceMs 0))))

(defun until (condition)
  "Let the server talk until CONDITION holds."
  (let ((end (+ (float-time) 30)))
    (while (not (funcall condition))
      (when (> (float-time) end) (error "Nothing came: %s" (buffer-string)))
      (accept-process-output nil 0.1))))

(defun until-written (text)
  (until (lambda () (string-search text (buffer-string)))))

(find-file "gaps.py")
(python-mode)  ; with --batch no mode comes by itself
(call-interactively #'eglot)
(princ (format "server: %s\n" (plist-get (eglot--server-info (eglot-current-server)) :name)))

(diffcoder-fill-gaps)
(until-written "x = 1 + 2\n")
(princ "gaps filled\n")

(goto-char (point-min))
(search-forward "edited = 0")
(diffcoder-edit (line-beginning-position) (line-end-position) "edited = 5")
(until-written "edited = 5\n")
(princ "edited\n")

(goto-char (point-max))
(insert "y = ")
(eglot--signal-textDocument/didChange)
(until (lambda ()
         (pcase (run-hook-with-args-until-success 'completion-at-point-functions)
           (`(,start ,end ,table . ,_)
            (seq-some (lambda (entry) (string-search "1 + 2" entry))
                      (all-completions (buffer-substring start end) table))))))
(princ "completed\n")
